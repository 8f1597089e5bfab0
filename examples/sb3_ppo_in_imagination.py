"""Train PPO wholly inside the learned Meta-World, then put it into the simulator that it never saw.

The defaults take a few minutes on two cores and are far too short for a good policy: raise --steps.
Needs stable-baselines3 and the simulator: pip install worldgym[sb3,metaworld]
"""

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from worldgym.agents.sb3 import make_vec_env

LEARNED, REAL = "WorldModel-MetaWorld-v0", "Simulator-MetaWorld-v0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--task", default="plate-slide")
    parser.add_argument("--steps", type=int, default=4096, help="imagined steps to train for")
    parser.add_argument("--envs", type=int, default=16, help="imagined episodes at a time, in one batch")
    parser.add_argument("--horizon", type=int, default=128, help="steps of each between two updates")
    parser.add_argument("--episodes", type=int, default=3, help="to evaluate on, in each world")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    envs = VecFrameStack(make_vec_env(LEARNED, options.envs, options.seed, task=options.task), 3)
    agent = PPO("CnnPolicy", envs, n_steps=options.horizon, batch_size=128, n_epochs=4, seed=options.seed, verbose=1)
    agent.learn(options.steps)

    for world in (LEARNED, REAL):
        envs = VecFrameStack(make_vec_env(world, 1, options.seed + 1000, task=options.task), 3)
        results = [episode(agent, envs) for _ in range(options.episodes)]
        envs.close()
        print(f"{world}: return {sum(total for total, _ in results) / len(results):.1f}", end="")
        print(f", success {sum(solved for _, solved in results)} of {len(results)}" if world == REAL else "")


def episode(agent: PPO, envs: VecEnv) -> tuple[float, bool]:
    """Return of one episode of the trained policy, and whether it ever succeeded."""
    observations, done, solved = envs.reset(), False, False
    while not done:
        actions, _ = agent.predict(observations, deterministic=True)
        observations, _, (done,), (info,) = envs.step(actions)
        solved |= info.get("success", False)
    return info["episode"]["r"], solved


if __name__ == "__main__":
    main()
