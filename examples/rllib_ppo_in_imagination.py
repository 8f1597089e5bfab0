"""Train PPO of RLlib in the learned environment only, then evaluate it in the simulator.

Every environment runner of RLlib is a process of a Ray cluster, and imagines its episodes in one batch.
The defaults take a few minutes on two cores, which is too short for a good policy: raise --steps.

Needs Ray, what RLlib imports, and the simulator: pip install .[rllib,metaworld] in the checkout
Not ray[rllib], which wants Gymnasium 1.2.2; worldgym needs 1.4, and RLlib works with it.

With a twin that `worldgym twin --env CartPole-v1 --out twins/cartpole` has made:
    python examples/rllib_ppo_in_imagination.py --checkpoint twins/cartpole --env CartPole-v1 --steps 50000
"""

import argparse
import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import ray
from gymnasium.wrappers.vector import DtypeObservation, RescaleObservation
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.tune import register_env


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--task", default="plate-slide", help="task of both environments, in Meta-World")
    parser.add_argument("--checkpoint", help="folder of a twin, in place of Meta-World")
    parser.add_argument("--env", help="id of the Gymnasium environment that it was made from")
    parser.add_argument("--ray", default="local", help="address of a Ray cluster; local starts one on this machine")
    parser.add_argument("--runners", type=int, default=1, help="processes that imagine; 0 imagines in this one")
    parser.add_argument("--envs", type=int, default=16, help="episodes that are imagined in one batch")
    parser.add_argument("--horizon", type=int, default=128, help="steps of each episode between two updates")
    parser.add_argument("--steps", type=int, default=4096, help="imagined steps to train for")
    parser.add_argument("--episodes", type=int, default=3, help="episodes to evaluate on, in the simulator")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    options = parser.parse_args()

    learned, real = (
        ("WorldModel-MetaWorld-v0", {"task": options.task}),
        ("Simulator-MetaWorld-v0", {"task": options.task}),
    )
    if options.checkpoint:
        learned = "WorldModel-v0", {"checkpoint": str(Path(options.checkpoint).resolve())}
        real = "Simulator-v0", {"env": options.env}
    ray.init(options.ray, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    register_env("learned", partial(make_envs, *learned))
    register_env("real", partial(make_envs, *real))
    agent = build(options)
    for _ in range(agent.config.evaluation_interval):
        found = agent.train()
        imagined = found["env_runners"].get("episode_return_mean", float("nan"))  # none has ended at first
        print(f"{found['num_env_steps_sampled_lifetime']:.0f} steps: imagined return {imagined:.1f}", flush=True)
    print(f"{real[0]}: return {found['evaluation']['env_runners']['episode_return_mean']:.1f}")
    agent.stop()


def make_envs(env_id: str, arguments: dict[str, Any], config: dict[str, Any]) -> gym.vector.VectorEnv[Any, Any, Any]:
    """A batch of environments for a runner. Its process imports worldgym because the id begins with it."""
    envs = gym.make_vec(f"worldgym:{env_id}", config.get("num_envs", 1), **arguments)
    return RescaleObservation(DtypeObservation(envs, np.float32), 0.0, 1.0)


def build(options: argparse.Namespace) -> PPO:
    """PPO on small images, which is evaluated after the last of its updates."""
    mode = gym.VectorizeMode.VECTOR_ENTRY_POINT  # make_envs makes a whole batch
    steps = max(options.runners, 1) * options.envs * options.horizon
    config = (
        PPOConfig()
        .environment("learned")
        .env_runners(
            num_env_runners=options.runners,
            num_envs_per_env_runner=options.envs,
            gym_env_vectorize_mode=mode,
            rollout_fragment_length=options.horizon,
        )
        .training(train_batch_size_per_learner=steps, minibatch_size=min(128, steps), num_epochs=4)
        .rl_module(model_config=DefaultModelConfig(conv_filters=[(16, 4, 2), (32, 4, 2), (64, 4, 2)]))
        .evaluation(
            evaluation_interval=math.ceil(options.steps / steps),
            evaluation_duration=options.episodes,
            evaluation_config={"env": "real", "num_envs_per_env_runner": 1, "explore": False},
        )
        .fault_tolerance(restart_failed_env_runners=False)
        .debugging(seed=options.seed)
    )
    return config.build_algo()


if __name__ == "__main__":
    main()
