"""Acting in the real environment: one step at a time, into the replay, resumable in the middle of an episode."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import FrameStackObservation
from numpy.typing import NDArray
from torch import Tensor

from worldgym.agents.common.random_streams import RandomStreams
from worldgym.agents.common.replay import ReplayBuffer
from worldgym.errors import TrainingError
from worldgym.runs.log import Metrics

Env = gym.Env[NDArray[np.uint8], NDArray[np.float32]]
Stack = NDArray[np.uint8]
"""The last S frames, uint8 ``[S, H, W, 3]``."""


class Collector:
    """Steps an environment and stores what happens.

    The seeds of episodes are functions of their number. So a collector is resumed by resetting the environment with the
    seed of the current episode and repeating the actions taken so far.

    Args:
        env: deterministic, given its seed; ends its episodes itself.
        replay: takes the steps.
        frame_stack: S.
        streams: gives the episodes' seeds.

    Attributes:
        episode: number of finished episodes.
    """

    def __init__(self, env: Env, replay: ReplayBuffer, frame_stack: int, streams: RandomStreams) -> None:
        self.env = FrameStackObservation(env, frame_stack)
        self.episode = 0
        self._replay, self._streams = replay, streams
        self._stack: Stack | None = None  # None between episodes
        self._actions: list[NDArray[np.float32]] = []  # of the current episode
        self._return, self._success = 0.0, False

    @property
    def between_episodes(self) -> bool:
        """Whether the last step ended an episode, or none was taken."""
        return self._stack is None

    def step(self, policy: Callable[[Stack], NDArray[np.float32]]) -> Metrics:
        """One step of the environment; a step that fails is not counted, and nothing of it is stored.

        Args:
            policy: chooses the action.

        Returns:
            Return, success and length of the episode, if the step ended it.

        Raises:
            Exception: what the environment raises; what the replay raises for invalid frames and rewards.
        """
        stack = self._begin_episode() if self._stack is None else self._stack
        action = policy(stack)
        stack, reward, terminated, truncated, info = self.env.step(action)
        self._replay.add(action, float(reward), stack[-1], terminated, truncated)
        self._note(action, float(reward), info)
        self._stack = None if terminated or truncated else stack
        if self._stack is not None:
            return {}
        self.episode += 1
        return {
            "episode/return": self._return,
            "episode/success": float(self._success),
            "episode/length": float(len(self._actions)),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """The current episode: the last frames and the actions taken; empty between episodes."""
        if self._stack is None:
            return {}
        actions = np.array(self._actions, np.float32).reshape(len(self._actions), self._replay.settings.action_dim)
        return {"stack": torch.from_numpy(self._stack), "actions": torch.from_numpy(actions)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`state_dict`: repeats the episode in the environment. Set ``episode`` first.

        Raises:
            TrainingError: if the environment does not repeat it.
        """
        self._stack = None
        if not state:
            return
        stack = self._reset()
        actions = state["actions"].numpy()
        for action in actions:
            stack, reward, _, _, info = self.env.step(action)
            self._note(action, float(reward), info)
        if not np.array_equal(stack, state["stack"].numpy()):
            raise TrainingError(
                f"the environment did not repeat episode {self.episode}: after step {len(actions)} the same seed and "
                "actions led to another frame, so the run cannot be resumed. Check whether the simulator has changed"
            )
        self._stack = stack

    def _begin_episode(self) -> Stack:
        stack = self._reset()
        self._replay.start(stack[-1])
        self._stack = stack
        return stack

    def _reset(self) -> Stack:
        self._actions, self._return, self._success = [], 0.0, False
        stack: Stack = self.env.reset(seed=self._streams.episode_seed(self.episode))[0]
        return stack

    def _note(self, action: NDArray[np.float32], reward: float, info: Mapping[str, Any]) -> None:
        self._actions.append(action)
        self._return += reward
        self._success = self._success or bool(info.get("success", False))
