"""Train PPO in the learned environment only, then evaluate it there and in the simulator. With --real train it in the
simulator instead, to compare.

The defaults take a few minutes on two cores, which is too short for a good policy: raise --steps.
Needs stable-baselines3 and the simulator: pip install .[sb3,metaworld] in the checkout

With a twin that `worldgym twin --env CartPole-v1 --out twins/cartpole` has made:
    python examples/sb3_ppo_in_imagination.py --checkpoint twins/cartpole --env CartPole-v1 --steps 50000
"""

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from worldgym.agents.sb3 import make_vec_env


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--task", default="plate-slide", help="task of both environments, in Meta-World")
    parser.add_argument("--checkpoint", help="folder of a twin, in place of Meta-World")
    parser.add_argument("--env", help="id of the Gymnasium environment that it was made from")
    parser.add_argument("--real", action="store_true", help="train in the simulator, to compare")
    parser.add_argument("--steps", type=int, default=4096, help="steps to train for")
    parser.add_argument("--envs", type=int, default=16, help="environments side by side")
    parser.add_argument("--horizon", type=int, default=128, help="steps of each episode between two updates")
    parser.add_argument("--episodes", type=int, default=3, help="episodes to evaluate on, in each environment")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    options = parser.parse_args()

    learned: tuple[str, dict[str, str]] = "WorldModel-MetaWorld-v0", {"task": options.task}
    real: tuple[str, dict[str, str]] = "Simulator-MetaWorld-v0", {"task": options.task}
    if options.checkpoint:
        learned, real = ("WorldModel-v0", {"checkpoint": options.checkpoint}), ("Simulator-v0", {"env": options.env})
    trained_in, arguments = real if options.real else learned
    envs = VecFrameStack(make_vec_env(trained_in, options.envs, options.seed, **arguments), 3)
    agent = PPO("CnnPolicy", envs, n_steps=options.horizon, batch_size=128, n_epochs=4, seed=options.seed, verbose=1)
    agent.learn(options.steps)

    for env_id, arguments in (learned, real):
        envs = VecFrameStack(make_vec_env(env_id, 1, options.seed + 1000, **arguments), 3)
        results = [run_episode(agent, envs) for _ in range(options.episodes)]
        envs.close()
        print(f"{env_id}: return {sum(total for total, _ in results) / len(results):.1f}", end="")
        print(f", success {sum(success for _, success in results)} of {len(results)}")


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
