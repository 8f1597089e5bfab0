"""What simulators share that are continued from any moment of an episode: states, copies and pickles."""

from abc import abstractmethod
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from worldgym.envs.contract import Frame, FrameEnv
from worldgym.envs.mujoco_camera import MujocoCamera
from worldgym.errors import InvalidOption


class Moment(Protocol):
    """A moment of an episode."""

    @property
    def task(self) -> str:
        """The task of the episode."""


State = TypeVar("State", bound=Moment)


class RestorableEnv(FrameEnv, Generic[State]):
    """An environment whose episode can be continued from any moment. ``simulator`` is the library's own environment."""

    OWN: ClassVar[tuple[str, ...]] = ("_frame", "_np_random")
    """Attributes of the environment that change in an episode."""
    task: str
    simulator: Any
    _camera: MujocoCamera

    @abstractmethod
    def _build(self) -> None:
        """Make the simulator and the camera."""

    @abstractmethod
    def _draw(self) -> Frame:
        """A frame of the present state."""

    @abstractmethod
    def _state(self) -> State:
        """All that the rest of the episode depends on, a copy."""

    @abstractmethod
    def _restore(self, state: State) -> None:
        """Continue from a state of this task; the state stays as it is."""

    def draw(self) -> Frame:
        """The frame of the present state; ``frame`` stays old."""
        self._current_frame("draw")
        return self._draw()

    def get_state(self) -> State:
        """All that the rest of the episode depends on, for :meth:`set_state`.

        Raises:
            ResetNeeded: before the first reset.
        """
        self._current_frame("get_state")
        return self._state()

    def set_state(self, state: State) -> None:
        """Continue as from the moment of :meth:`get_state`, exactly; a state can be set any number of times.

        Args:
            state: of this environment, or of another one with the same task.

        Raises:
            ResetNeeded: before the first reset.
            InvalidOption: for the state of another task.
        """
        self._current_frame("set_state")
        if state.task != self.task:
            raise InvalidOption(f"set_state: expected a state of {self.task}, got one of {state.task}")
        self._restore(state)

    def close(self) -> None:
        """Free the renderer and the simulator."""
        if not self._closed:
            self._camera.close()
            self.simulator.close()
        super().close()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, in the middle of an episode too: the simulator is built again."""
        state = None if self._frame is None else self.get_state()
        return {**self.__dict__, "simulator": None, "_camera": None, "_restored": state}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        state = attributes.pop("_restored")
        self.__dict__.update(attributes)
        if self._closed:
            return
        self._build()
        if state is not None:
            self._restore(state)
