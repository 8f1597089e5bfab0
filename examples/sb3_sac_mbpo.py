"""Train SAC on a mix of real and imagined transitions (MBPO).

SAC acts in the Meta-World simulator. The world model starts with the shipped weights and is trained further on the real
steps. The defaults take a few minutes on two cores, which is too short for a good policy: raise --steps.
Needs stable-baselines3 and the simulator: pip install .[sb3,metaworld] in the checkout
"""

import argparse

from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecFrameStack

from worldgym import WorldModel
from worldgym.agents.presets import COMPACT
from worldgym.agents.sb3 import ImaginationCallback, MixedReplayBuffer, make_vec_env
from worldgym.training.online import OnlineTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--task", default="plate-slide", help="task of the simulator")
    parser.add_argument("--steps", type=int, default=600, help="real steps to train for")
    parser.add_argument("--real-ratio", type=float, default=0.5, help="share of real transitions in every batch")
    parser.add_argument("--updates", type=int, default=2, help="world-model updates every 100 real steps; 0: none")
    parser.add_argument("--episodes", type=int, default=2, help="episodes to evaluate on")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    options = parser.parse_args()

    world_model = WorldModel.from_pretrained("metaworld-64")
    imagination = ImaginationCallback(
        world_model,
        OnlineTrainer(world_model, COMPACT) if options.updates else None,
        rollout_every=50,
        rollouts=16,
        horizon=5,
        train_every=100,
        updates=max(1, options.updates),
        batch_size=4,
        seed=options.seed,
    )
    real = VecFrameStack(make_vec_env("Simulator-MetaWorld-v0", 1, options.seed, task=options.task), 3)
    agent = SAC(
        "CnnPolicy",
        real,
        buffer_size=options.steps,
        learning_starts=100,
        batch_size=32,
        replay_buffer_class=MixedReplayBuffer,
        replay_buffer_kwargs={"imagined_size": 2000, "real_ratio": options.real_ratio},
        seed=options.seed,
        verbose=1,
    )
    agent.learn(options.steps, imagination, log_interval=1)
    mean, deviation = evaluate_policy(agent, real, options.episodes)
    print(f"return in the simulator: {mean:.1f} +- {deviation:.1f} over {options.episodes} episodes")
    real.close()


if __name__ == "__main__":
    main()
