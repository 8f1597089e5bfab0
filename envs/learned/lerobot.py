"""A learned environment as LeRobot's evaluation takes it.

LeRobot's EnvHub loads an ``env.py`` from the Hugging Face Hub and calls its ``make_env``. ``worldgym push`` uploads
such a file, which calls :func:`make_env`.
"""

import os
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from worldgym.envs.learned.env import WorldModelEnv


class LeRobotEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Shows the frame under the key ``pixels`` and the success as ``info["is_success"]``.

    Args:
        env: a learned environment.

    Attributes:
        task: the task of the episode.
        task_description: the same; there is no instruction in words.
    """

    def __init__(self, env: WorldModelEnv) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Dict(pixels=env.observation_space)
        self.task = self.task_description = ""
        self._max_episode_steps = env.world_model.config.max_episode_steps

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode; arguments as for :meth:`WorldModelEnv.reset`."""
        frame, info = self.env.reset(**kwargs)
        self.task = self.task_description = info["task"]
        return {"pixels": frame}, self._with_success(info)

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Imagine one step."""
        frame, reward, terminated, truncated, info = self.env.step(action)
        return {"pixels": frame}, float(reward), terminated, truncated, self._with_success(info)

    @staticmethod
    def _with_success(info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "is_success": bool(np.any(info.get("success", False)))}


def make_env(
    checkpoint: str | os.PathLike[str], n_envs: int = 1, use_async_envs: bool = False, task: str | None = None
) -> VectorEnv[Any, Any, Any]:
    """Learned environments, one a slot, reset in the step that ends an episode.

    Args:
        checkpoint: a shipped name, a folder or a Hugging Face Hub id.
        n_envs: number of slots.
        use_async_envs: whether each slot has a process of its own.
        task: one of the checkpoint's tasks; None chooses one at each reset.
    """
    kind = AsyncVectorEnv if use_async_envs else SyncVectorEnv
    makers = [partial(_make, os.fspath(checkpoint), task) for _ in range(n_envs)]
    envs: VectorEnv[Any, Any, Any] = kind(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    return envs


def _make(checkpoint: str, task: str | None) -> LeRobotEnv:
    return LeRobotEnv(WorldModelEnv(task, checkpoint=checkpoint))
