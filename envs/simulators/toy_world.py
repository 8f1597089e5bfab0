"""What the toy worlds share: frames of 32 x 32 pixels, exact dynamics, episodes that can start from any state.

They are for testing agents: one frame shows everything, and a step takes some tens of microseconds. Objects have real
positions, not whole pixels. A pixel that an object covers in part takes on its colour in part, so a frame shows
positions to a small fraction of a pixel.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from worldgym.envs.contract import (
    Frame,
    FrameEnv,
    Info,
    Options,
    action_space,
    checked_action,
    checked_options,
    metadata,
)
from worldgym.envs.registry import SimulatorSpec
from worldgym.errors import InvalidOption, UnknownTask

EPISODE_STEPS = 25
RENDER_FPS = 10
RESOLUTION = 32

State = NDArray[np.float64]
"""The complete state of a world, float64 ``[S]``."""
Canvas = NDArray[np.float32]
"""A frame before rounding, float32 ``[32, 32, 3]`` in [0, 255]."""


class ToyWorld(FrameEnv):
    """A toy world; nothing terminates an episode, ``gym.make`` truncates it after 25 steps.

    Args:
        task: the world's only task.
        render_mode: ``rgb_array``, ``human`` or None.

    Raises:
        UnknownTask: for another task.
    """

    metadata = metadata(RENDER_FPS)
    frame_skip = 1
    spec_name: ClassVar[str]
    action_dim: ClassVar[int]

    def __init__(self, task: str | None = None, render_mode: str | None = None) -> None:
        self.task = self.spec_name.lower()
        if task not in (None, self.task):
            raise UnknownTask(f"{self.spec_name} has one task, {self.task!r}, got {task!r}")
        super().__init__(RESOLUTION, action_space(self.action_dim), self.spec_name, render_mode)
        self.state: State = np.zeros(0)

    @classmethod
    def make_spec(cls, action_names: tuple[str, ...], directions: tuple[tuple[float, ...], ...] = ()) -> SimulatorSpec:
        """The world's specification."""
        return SimulatorSpec(
            name=cls.spec_name,
            entry_point=f"{cls.__module__}:{cls.__name__}",
            tasks=(cls.spec_name.lower(),),
            action_names=action_names,
            frame_skip=cls.frame_skip,
            episode_steps=EPISODE_STEPS,
            render_fps=RENDER_FPS,
            directions=directions,
        )

    def reset(self, *, seed: int | None = None, options: Options | None = None) -> tuple[Frame, Info]:
        """Start an episode at random; equal seeds give equal episodes.

        ``options={"state": ...}`` starts from a state that ``info["state"]`` has shown.

        Returns:
            The frame, uint8 ``[32, 32, 3]``, and ``info`` with ``success``, ``task`` and ``state`` (float64 ``[S]``).

        Raises:
            InvalidOption: for another option, or an impossible state.
        """
        self._check_open("reset")
        super().reset(seed=seed)
        given = checked_options(options, ("state",))
        self.state = self._checked_state(given["state"]) if given else self._sample_state()
        return self._show(self._draw()), self._info()

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, Info]:
        """Apply an action, float32 ``[A]``, clipped to [-1, 1].

        Raises:
            InvalidAction: for an action of another shape, or one that is not finite.
            ResetNeeded: before the first reset.
        """
        self._current_frame("step")
        reward, _ = self.advance(action)
        return self._show(self._draw()), reward, False, False, self._info()

    def advance(self, action: NDArray[np.float32]) -> tuple[float, bool]:
        """As :meth:`step` without drawing: reward and success. ``frame`` stays old."""
        self._current_frame("advance")
        self.state = self._next_state(checked_action(action, self.action_space))
        return self._reward(), self._succeeds()

    def draw(self) -> Frame:
        """The frame of the present state; ``frame`` stays old."""
        self._current_frame("draw")
        return self._draw()

    def get_state(self) -> tuple[State, Frame]:
        """All that the rest of the episode depends on, for :meth:`set_state`. Raises ResetNeeded before a reset."""
        return self.state.copy(), self._current_frame("get_state").copy()

    def set_state(self, state: tuple[State, Frame]) -> None:
        """Continue as from the moment of :meth:`get_state`, exactly."""
        self._current_frame("set_state")
        self.state, self._frame = state[0].copy(), state[1].copy()

    def expert_action(self) -> NDArray[np.float32]:
        """An optimal action, float32 ``[A]`` in [-1, 1]. Raises ResetNeeded before the first reset."""
        self._current_frame("expert_action")
        return np.clip(self._unbounded_expert_action(), -1.0, 1.0).astype(np.float32)

    @classmethod
    @abstractmethod
    def bounds(cls) -> tuple[State, State]:
        """The lowest and the highest values of a state."""

    @abstractmethod
    def _sample_state(self) -> State:
        """The state in which an episode starts."""

    @abstractmethod
    def _next_state(self, action: NDArray[np.float32]) -> State:
        """The state after an action."""

    @abstractmethod
    def _unbounded_expert_action(self) -> State:
        """The action, ``[A]``, that would solve the task in one step if actions had no bounds."""

    @abstractmethod
    def _reward(self) -> float:
        """The reward of the step that led to the state."""

    @abstractmethod
    def _succeeds(self) -> bool:
        """Whether the state is a success."""

    @abstractmethod
    def _canvas(self) -> Canvas:
        """The state as a picture."""

    def _draw(self) -> Frame:
        return np.rint(self._canvas()).astype(np.uint8)

    def _checked_state(self, state: Any) -> State:
        low, high = self.bounds()
        try:
            values = np.array(state, np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.shape != low.shape or not np.all((values >= low) & (values <= high)):
            raise InvalidOption(
                f"reset option 'state': expected {len(low)} numbers within {low.tolist()} and {high.tolist()}, as in "
                f"info['state'], got {state!r}"
            )
        return values

    def _info(self) -> Info:
        return {"success": self._succeeds(), "task": self.task, "state": self.state.copy()}
