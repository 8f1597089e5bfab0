"""What all environments here share: spaces, action checks, the window of ``render_mode="human"``."""

import functools
import sys
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldgym.errors import InvalidAction

Frame = NDArray[np.uint8]

FrameSpace = gym.spaces.Box[np.uint8]
ActionSpace = gym.spaces.Box[np.float32]

METADATA: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 40}
"""Real time: Meta-World runs at 80 steps a second, and an environment's step is two of them."""


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


def show_frame(frame: Frame, title: str) -> None:
    """Show the frame in a window; where there is no display, say so once on stderr and go on.

    It is no error, because Gymnasium's ``check_env`` makes every environment anew in each of its render modes.
    """
    import matplotlib
    import matplotlib.pyplot as plt

    if matplotlib.get_backend().lower() == "agg":
        _say_that_nothing_is_shown()
        return
    figure = plt.figure(title)
    figure.clear()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(frame)
    axes.set_axis_off()
    plt.pause(0.001)


@functools.cache
def _say_that_nothing_is_shown() -> None:
    print(
        "worldgym: render_mode='human' shows no window here: it needs a display and a window toolkit; "
        "`pip install pyqt6`, or use 'rgb_array'",
        file=sys.stderr,
    )


def close_window(title: str) -> None:
    """Close the window that :func:`show_frame` opened under this title."""
    import matplotlib.pyplot as plt

    plt.close(title)
