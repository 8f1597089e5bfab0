"""Train PPO in the learned CartPole alone, then let it balance the real pole. With --real train it there, to compare.

PPO gets four numbers that are measured in each frame: where the tip of the pole and the cart are, and how both moved.
From pixels alone it learns nothing in so few steps, neither in CartPole nor in its twin. Takes two minutes on one core.
Needs stable-baselines3 and CartPole: pip install .[sb3,gym] in the checkout
"""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
from cartpole_by_eye import measure
from numpy.typing import NDArray
from sb3_ppo_in_imagination import run_episode
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from worldgym.agents.sb3 import make_vec_env

SPEED_SCALE = 3.0  # of movements beside places, in pixels


class ByEye(VecEnvWrapper):
    """Observations of lean, place and how both moved since the last frame, float32 ``[4]``, in place of frames."""

    def __init__(self, envs: VecEnv) -> None:
        super().__init__(envs, observation_space=gym.spaces.Box(-np.inf, np.inf, (4,), np.float32))
        self._last: NDArray[np.float64] = np.zeros((envs.num_envs, 2))

    def reset(self) -> NDArray[np.float32]:
        self._last = _measured(self.venv.reset())
        return self._observed(self._last, self._last)

    def step_wait(self) -> Any:
        frames, rewards, dones, infos = self.venv.step_wait()
        places = _measured(frames)
        for row in np.flatnonzero(dones):
            end = _measured(infos[row]["terminal_observation"][None])
            infos[row]["terminal_observation"] = self._observed(end, self._last[row])[0]
        before, self._last = np.where(dones[:, None], places, self._last), places
        return self._observed(places, before), rewards, dones, infos

    @staticmethod
    def _observed(places: NDArray[np.float64], before: NDArray[np.float64]) -> NDArray[np.float32]:
        return np.concatenate([places, SPEED_SCALE * (places - before)], axis=1).astype(np.float32)


def _measured(frames: Any) -> NDArray[np.float64]:
    """Lean and place of the cart from the middle, in pixels: ``[N, 2]``. The place counts for a fifth."""
    found = np.array([measure(frame) for frame in frames])
    return found * (1.0, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="cartpole-64", help="the twin (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=40_000, help="steps to train for (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=20, help="episodes to evaluate on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the training (default: %(default)s)")
    parser.add_argument("--real", action="store_true", help="train in CartPole itself, to compare")
    options = parser.parse_args()

    twin: tuple[str, dict[str, str]] = "WorldModel-v0", {"checkpoint": options.checkpoint}
    real: tuple[str, dict[str, str]] = "Simulator-v0", {"env": "CartPole-v1"}
    trained_in, arguments = real if options.real else twin
    envs = ByEye(make_vec_env(trained_in, 8, options.seed, **arguments))
    agent = PPO(  # settings of rl-baselines3-zoo for CartPole-v1
        "MlpPolicy",
        envs,
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        learning_rate=lambda left: 1e-3 * left,
        clip_range=lambda left: 0.2 * left,
        seed=options.seed,
    )
    agent.learn(options.steps)
    envs.close()
    for env_id, arguments in (twin, real):
        envs = ByEye(make_vec_env(env_id, 1, options.seed + 1000, **arguments))
        returns = [run_episode(agent, envs)[0] for _ in range(options.episodes)]
        envs.close()
        print(f"{env_id}: return {np.mean(returns):.1f} (a reward of 1 for each of at most 500 steps)")


if __name__ == "__main__":
    main()
