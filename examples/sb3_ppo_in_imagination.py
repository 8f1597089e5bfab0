"""Train PPO in the learned environment only, then evaluate it there and in the simulator.

The defaults take a few minutes on two cores, which is too short for a good policy: raise --steps.
Needs stable-baselines3 and the simulator: pip install worldgym[sb3,metaworld]
"""

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from worldgym.agents.sb3 import make_vec_env

LEARNED, REAL = "WorldModel-MetaWorld-v0", "Simulator-MetaWorld-v0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--task", default="plate-slide", help="task of both environments")
    parser.add_argument("--steps", type=int, default=4096, help="imagined steps to train for")
    parser.add_argument("--envs", type=int, default=16, help="episodes that are imagined in one batch")
    parser.add_argument("--horizon", type=int, default=128, help="steps of each episode between two updates")
    parser.add_argument("--episodes", type=int, default=3, help="episodes to evaluate on, in each environment")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    options = parser.parse_args()

    envs = VecFrameStack(make_vec_env(LEARNED, options.envs, options.seed, task=options.task), 3)
    agent = PPO("CnnPolicy", envs, n_steps=options.horizon, batch_size=128, n_epochs=4, seed=options.seed, verbose=1)
    agent.learn(options.steps)

    for env_id in (LEARNED, REAL):
        envs = VecFrameStack(make_vec_env(env_id, 1, options.seed + 1000, task=options.task), 3)
        results = [run_episode(agent, envs) for _ in range(options.episodes)]
        envs.close()
        print(f"{env_id}: return {sum(total for total, _ in results) / len(results):.1f}", end="")
        print(f", success {sum(success for _, success in results)} of {len(results)}" if env_id == REAL else "")


def run_episode(agent: PPO, envs: VecEnv) -> tuple[float, bool]:
    """Return of one episode of the trained policy, and whether it was successful at any step."""
    observations, done, success = envs.reset(), False, False
    while not done:
        actions, _ = agent.predict(observations, deterministic=True)
        observations, _, (done,), (info,) = envs.step(actions)
        success |= info.get("success", False)
    return info["episode"]["r"], success


if __name__ == "__main__":
    main()
