"""Train PPO of RLlib in the learned environment only, then evaluate it in the simulator.

Every environment runner of RLlib is a process of a Ray cluster, and imagines its episodes in one batch.
The defaults take a few minutes on two cores, which is too short for a good policy: raise --steps.

Needs Ray, what RLlib imports, and the simulator: pip install worldgym[rllib,metaworld]
Not ray[rllib], which wants Gymnasium 1.2.2; worldgym needs 1.4, and RLlib works with it.

With a twin that `worldgym twin --env CartPole-v1 --out twins/cartpole` has made:
    python examples/rllib_ppo_in_imagination.py --checkpoint twins/cartpole --env CartPole-v1 --steps 50000
"""

import argparse
import logging
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

    learned = {"id": "WorldModel-MetaWorld-v0", "task": options.task}
    real = {"id": "Simulator-MetaWorld-v0", "task": options.task}
    if options.checkpoint:
        learned = {"id": "WorldModel-v0", "checkpoint": str(Path(options.checkpoint).resolve())}
        real = {"id": "Simulator-v0", "env": options.env}
    ray.init(options.ray, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    register_env("worlds", make_envs)
    agent, steps = build(options, learned, real), 0
    while steps < options.steps:
        trained = agent.train()
        steps = int(trained["num_env_steps_sampled_lifetime"])
        imagined = trained["env_runners"].get("episode_return_mean", float("nan"))  # none has ended at first
        print(f"{steps} steps: return of imagined episodes {imagined:.1f}", flush=True)
    print(f"{real['id']}: return {agent.evaluate()['env_runners']['episode_return_mean']:.1f}")
    agent.stop()


def make_envs(config: dict[str, Any]) -> gym.vector.VectorEnv[Any, Any, Any]:
    """A batch of environments for a runner. Its process imports worldgym because the id begins with it."""
    arguments = dict(config)
    envs = gym.make_vec(f"worldgym:{arguments.pop('id')}", arguments.pop("num_envs", 1), **arguments)
    return RescaleObservation(DtypeObservation(envs, np.float32), 0.0, 1.0)


def build(options: argparse.Namespace, learned: dict[str, str], real: dict[str, str]) -> PPO:
    """PPO on small images, with one worker for the networks."""
    mode = gym.VectorizeMode.VECTOR_ENTRY_POINT  # make_envs makes a whole batch
    steps = max(options.runners, 1) * options.envs * options.horizon
    config = (
        PPOConfig()
        .environment("worlds", env_config=learned)
        .env_runners(
            num_env_runners=options.runners,
            num_envs_per_env_runner=options.envs,
            gym_env_vectorize_mode=mode,
            rollout_fragment_length=options.horizon,
        )
        .training(train_batch_size_per_learner=steps, minibatch_size=min(128, steps), num_epochs=4)
        .rl_module(model_config=DefaultModelConfig(conv_filters=[(16, 4, 2), (32, 4, 2), (64, 4, 2)]))
        .evaluation(
            evaluation_duration=options.episodes,
            evaluation_config={"env_config": real, "num_envs_per_env_runner": 1, "explore": False},
        )
        .fault_tolerance(restart_failed_env_runners=False)
        .debugging(seed=options.seed)
    )
    return config.build_algo()


if __name__ == "__main__":
    main()
