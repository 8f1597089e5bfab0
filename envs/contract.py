"""What all environments share: spaces, checks of actions and options, order of calls, the window of mode ``human``."""

import functools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldgym.errors import EnvironmentClosed, InvalidAction, InvalidOption, ResetNeeded, nearest

Frame = NDArray[np.uint8]

FrameSpace = gym.spaces.Box[np.uint8]
ActionSpace = gym.spaces.Box[np.float32]

Info = dict[str, Any]
Options = Mapping[str, Any]
RENDER_MODES = ("rgb_array", "human")
IGNORED_OPTIONS = ("minari_autoseed",)
"""Reset options that other libraries add and that change nothing here."""


def metadata(render_fps: int) -> dict[str, Any]:
    """An environment's ``metadata``: render modes, and steps in a second of real time."""
    return {"render_modes": list(RENDER_MODES), "render_fps": render_fps}


def frame_space(resolution: int) -> FrameSpace:
    """One frame: uint8 ``[resolution, resolution, 3]``."""
    return gym.spaces.Box(0, 255, (resolution, resolution, 3), np.uint8)


def action_space(action_dim: int) -> ActionSpace:
    """Actions float32 ``[action_dim]`` in [-1, 1]."""
    return gym.spaces.Box(-1.0, 1.0, (action_dim,), np.float32)


def checked_action(action: ArrayLike, space: ActionSpace) -> NDArray[np.float32]:
    """The action as float32 ``[action_dim]``, clipped to the space as the simulators clip.

    Raises:
        InvalidAction: for another shape, or a value that is NaN or infinite.
    """
    values = _as_float32(action, space, space.shape)
    if not np.isfinite(values).all():
        raise InvalidAction(f"expected finite action values for {space}, got {values}")
    return np.clip(values, space.low, space.high)


def checked_actions(actions: ArrayLike, space: ActionSpace, acting: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The actions of all slots as float32 ``[N, action_dim]``, clipped to the space of one.

    Rows of slots that are not ``acting`` (bool ``[N]``) become zeros, whatever stands in them.

    Raises:
        InvalidAction: for another shape, or a value that is NaN or infinite; it names the slot.
    """
    values = _as_float32(actions, space, (*acting.shape, *space.shape))
    values = np.where(acting[:, None], values, np.float32(0))
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if broken.size:
        raise InvalidAction(f"expected finite action values for {space}, got {values[broken[0]]} in slot {broken[0]}")
    return np.clip(values, space.low, space.high)


def _as_float32(action: ArrayLike, space: ActionSpace, shape: tuple[int, ...]) -> NDArray[np.float32]:
    try:
        given = np.asarray(action)
        if given.dtype.kind not in "biuf":
            raise InvalidAction(f"expected an action of {space}, real numbers, got {given.dtype}: {action!r}")
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and is then refused by that name
            values = given.astype(np.float32)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors with gradients
        raise InvalidAction(f"expected an action of {space}, got {action!r}: {error}") from error
    if values.shape != shape:
        raise InvalidAction(f"expected an action of shape {shape} for {space}, got shape {values.shape}: {action!r}")
    return values


def checked_render_mode(mode: str | None) -> str | None:
    """The render mode. Raises InvalidOption for an unknown one."""
    if mode not in (None, *RENDER_MODES):
        raise InvalidOption(f"render_mode: expected None, 'rgb_array' or 'human', got {mode!r}")
    return mode


def checked_options(options: Any, known: Iterable[str] = ()) -> dict[str, Any]:
    """The options of a reset, as a new dictionary; :data:`IGNORED_OPTIONS` are left out.

    Raises:
        InvalidOption: for anything but a dictionary or None, and for an option that is not in ``known``.
    """
    if options is not None and not isinstance(options, Mapping):
        raise InvalidOption(f"reset options: expected a dictionary or None, got {options!r}")
    given = {name: value for name, value in (options or {}).items() if name not in IGNORED_OPTIONS}
    names = list(known)
    for name in given:
        if name not in names:
            advice = nearest(str(name), names) if names else "this environment takes none"
            raise InvalidOption(f"unknown reset option {name!r}; {advice}")
    return given


class FrameEnv(gym.Env[Frame, Any]):
    """Base of all single environments: one frame is the observation; calls are checked for their order.

    Args:
        resolution: height and width of a frame.
        actions: the action space.
        title: of the window of mode ``human``.
        render_mode: ``rgb_array``, ``human`` or None.
    """

    action_space: Any

    def __init__(self, resolution: int, actions: gym.spaces.Space[Any], title: str, render_mode: str | None) -> None:
        self.render_mode = checked_render_mode(render_mode)
        self.observation_space = frame_space(resolution)
        self.action_space = actions
        self._title = title
        self._frame: Frame | None = None
        self._closed = False

    def render(self) -> Frame | None:
        """The current frame in mode ``rgb_array``; in mode ``human`` every step shows its frame in a window.

        Raises:
            ResetNeeded: before the first reset.
            EnvironmentClosed: after ``close``.
        """
        frame = self._current_frame("render")
        return frame.copy() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Close the window and free what the environment holds; it cannot be used afterwards."""
        self._closed, self._frame = True, None
        if self.render_mode == "human":
            close_window(self._title)

    @property
    def frame(self) -> Frame:
        """A copy of the current frame. Raises as :meth:`render`."""
        return self._current_frame("frame").copy()

    def _check_open(self, call: str) -> None:
        check_open(self._closed, call)

    def _current_frame(self, call: str) -> Frame:
        """The current frame. Raises ResetNeeded or EnvironmentClosed if there is none."""
        self._check_open(call)
        if self._frame is None:
            raise ResetNeeded(f"{call}() was called before reset(): call env.reset() first")
        return self._frame

    def _show(self, frame: Frame) -> Frame:
        """Make a frame the current one; a copy for the caller."""
        self._frame = frame
        if self.render_mode == "human":
            show_frame(frame, self._title)
        return frame.copy()


def check_open(closed: bool, call: str) -> None:
    """Raise EnvironmentClosed if the environment was closed."""
    if closed:
        raise EnvironmentClosed(f"{call}() was called after close(): make a new environment")


def check_look(look: str, looks: Sequence[str]) -> None:
    """Raise InvalidOption for another way to draw than those that a simulator has."""
    if look not in looks:
        raise InvalidOption(f"look: expected {' or '.join(map(repr, looks))}, got {look!r}")


def no_expert(task: str, known: Iterable[str] = ()) -> InvalidOption:
    """The error for a task without a scripted expert; names the tasks that have one."""
    others = f"; tasks that have one: {', '.join(known)}" if known else ""
    return InvalidOption(
        f"{task} has no scripted expert{others}. Record random, sticky or smooth actions, or a policy, instead"
    )


def show_frame(frame: Frame, title: str) -> None:
    """Show the frame in a window; without a display, warn once.

    A missing display is no error, because Gymnasium's ``check_env`` makes every environment in each render mode.
    """
    import matplotlib
    import matplotlib.pyplot as plt

    if matplotlib.get_backend().lower() == "agg":
        _warn_of_no_window()
        return
    figure = plt.figure(title)
    figure.clear()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(frame)
    axes.set_axis_off()
    plt.pause(0.001)


@functools.cache
def _warn_of_no_window() -> None:
    warnings.warn(
        "render_mode='human' shows no window here: it needs a display and a window toolkit; `pip install pyqt6`, or "
        "use 'rgb_array'",
        stacklevel=4,
    )


def close_window(title: str) -> None:
    """Close the window that :func:`show_frame` opened under this title."""
    import matplotlib.pyplot as plt

    plt.close(title)
