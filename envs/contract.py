"""What all environments here share: spaces, action checks, the window of ``render_mode="human"``."""

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldgym.errors import DependencyNotInstalled, InvalidAction

Frame = NDArray[np.uint8]


def frame_space(resolution: int) -> gym.spaces.Box:
    """One frame: uint8 ``[resolution, resolution, 3]``."""
    return gym.spaces.Box(0, 255, (resolution, resolution, 3), np.uint8)


def checked_action(action: ArrayLike, space: gym.spaces.Box, batch: tuple[int, ...] = ()) -> NDArray[np.float32]:
    """The action as float32 ``[*batch, action_dim]``, clipped to the space as the simulators clip.

    Raises:
        InvalidAction: for another shape, or a value that is NaN or infinite.
    """
    expected = batch + space.shape
    try:
        values = np.asarray(action, np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidAction(f"expected an action of {space}, got {action!r}") from error
    if values.shape != expected:
        raise InvalidAction(f"expected an action of shape {expected} for {space}, got shape {values.shape}: {action!r}")
    if not np.isfinite(values).all():
        raise InvalidAction(f"expected finite action values for {space}, got {values}")
    return np.clip(values, space.low, space.high)


def show_frame(frame: Frame, title: str) -> None:
    """Show the frame in a window, eight times enlarged.

    Raises:
        DependencyNotInstalled: where matplotlib has no window to draw in.
    """
    import matplotlib
    import matplotlib.pyplot as plt

    if matplotlib.get_backend().lower() == "agg":
        raise DependencyNotInstalled(
            "render_mode='human' needs a display and a window toolkit; `pip install pyqt6`, or use 'rgb_array'"
        )
    figure = plt.figure(title)
    figure.clear()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(frame)
    axes.set_axis_off()
    plt.pause(0.001)
