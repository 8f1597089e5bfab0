"""What the toy worlds share: pictures of 32 x 32 pixels, exact dynamics, episodes that can start from any state.

They are for trying agents out: one picture shows everything there is to know, and a step takes some tens of
microseconds. Things stand at real numbers, not at whole pixels; a pixel that one covers in part takes on its colour in
part, so a picture tells where a thing is to a small fraction of a pixel.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldgym.envs.contract import (
    METADATA,
    ActionSpace,
    Frame,
    action_space,
    checked_action,
    close_window,
    frame_space,
    show_frame,
)
from worldgym.errors import InvalidOption, ResetNeeded, UnknownTask

EPISODE_STEPS = 25
RESOLUTION = 32
RENDER_FPS = 10
TOY_METADATA: dict[str, Any] = {**METADATA, "render_fps": RENDER_FPS}

State = NDArray[np.float64]
"""All that a world remembers, float64 ``[S]``."""
Canvas = NDArray[np.float32]
"""A picture before it is rounded, float32 ``[32, 32, 3]`` in [0, 255]."""


class ToyWorld(gym.Env[Frame, NDArray[np.float32]]):
    """A toy world; nothing terminates an episode, ``gym.make`` truncates it after 25 steps.

    Args:
        render_mode: ``rgb_array``, ``human`` or None.
    """

    metadata = TOY_METADATA
    action_space: ActionSpace
    env_id: ClassVar[str]
    task: ClassVar[str]
    action_dim: ClassVar[int]

    def __init__(self, render_mode: str | None = None, task: str | None = None) -> None:
        if task not in (None, self.task):
            raise UnknownTask(f"{self.env_id} has one task, {self.task!r}, got {task!r}")
        if render_mode not in (None, "rgb_array", "human"):
            raise InvalidOption(f"render_mode must be None, 'rgb_array' or 'human', got {render_mode!r}")
        self.render_mode = render_mode
        self.observation_space = frame_space(RESOLUTION)
        self.action_space = action_space(self.action_dim)
        self.state: State = np.zeros(0)
        self._frame: Frame | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Start an episode at random; equal seeds give equal episodes.

        ``options={"state": ...}`` starts it where ``info["state"]`` of another one stood.

        Returns:
            The frame, uint8 ``[32, 32, 3]``, and ``info`` with ``success``, ``task`` and ``state`` (float64 ``[S]``).

        Raises:
            InvalidOption: for another option, or a state that no episode can be in.
        """
        super().reset(seed=seed)
        if set(options or {}) - {"state"}:
            raise InvalidOption(f"{self.env_id} takes the reset option 'state' only, got {sorted(options or {})}")
        self.state = self._checked_state(options["state"]) if options else self._drawn_state()
        return self._observe(), self._info()

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """Act.

        Raises:
            InvalidAction: for an action of another shape, or one that is not finite.
            ResetNeeded: before the first reset.
        """
        self._check_reset("step")
        self.state = self._moved(checked_action(action, self.action_space))
        return self._observe(), self._reward(), False, False, self._info()

    def expert_action(self) -> NDArray[np.float32]:
        """What nobody earns more with, float32 ``[A]`` in [-1, 1]."""
        self._check_reset("expert_action")
        return np.clip(self._way(), -1.0, 1.0).astype(np.float32)

    def render(self) -> Frame | None:
        """The current frame in mode ``rgb_array``; in mode ``human`` it is shown in a window."""
        frame = self._check_reset("render")
        return frame.copy() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Close the window, if there is one."""
        self._frame = None
        if self.render_mode == "human":
            close_window(self.env_id)

    @classmethod
    @abstractmethod
    def bounds(cls) -> tuple[State, State]:
        """The lowest and the highest values of a state."""

    @abstractmethod
    def _drawn_state(self) -> State:
        """Where an episode starts."""

    @abstractmethod
    def _moved(self, action: NDArray[np.float32]) -> State:
        """What an action makes of the state."""

    @abstractmethod
    def _way(self) -> State:
        """The action that would do it at once, ``[A]``, however large."""

    @abstractmethod
    def _reward(self) -> float:
        """Of the step that led to the state."""

    @abstractmethod
    def _succeeds(self) -> bool:
        """Whether the state counts as success."""

    @abstractmethod
    def _picture(self) -> Canvas:
        """Of the state."""

    def _checked_state(self, state: Any) -> State:
        low, high = self.bounds()
        try:
            values = np.array(state, np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.shape != low.shape or not np.all((values >= low) & (values <= high)):
            raise InvalidOption(
                f"the reset option 'state' of {self.env_id} takes {len(low)} numbers within {low.tolist()} and "
                f"{high.tolist()}, as info['state'] gives them: got {state!r}"
            )
        return values

    def _check_reset(self, call: str) -> Frame:
        if self._frame is None:
            raise ResetNeeded(f"{call}() came before reset(); call env.reset() first")
        return self._frame

    def _observe(self) -> Frame:
        self._frame = np.rint(self._picture()).astype(np.uint8)
        if self.render_mode == "human":
            show_frame(self._frame, self.env_id)
        return self._frame.copy()

    def _info(self) -> dict[str, Any]:
        return {"success": self._succeeds(), "task": self.task, "state": self.state.copy()}
