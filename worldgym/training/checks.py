"""Checks of recordings before training."""

import warnings

import numpy as np

from worldgym.data.recordings import Recordings
from worldgym.errors import ConfigError


def check_recordings(recordings: Recordings, resolution: int, action_dim: int | None = None) -> None:
    """Check that recordings fit a model.

    Args:
        recordings: to train or validate on.
        resolution: height and width of the model's frames, in pixels.
        action_dim: length of the model's actions; None accepts any.

    Raises:
        ConfigError: otherwise.
    """
    height, width = recordings.frame_shape[:2]
    if (height, width) != (resolution, resolution):
        raise ConfigError(
            f"{recordings.folder}: expected frames of {resolution} x {resolution} pixels, which the recipe's model "
            f"takes, got {height} x {width}: record at this resolution, or change the recipe's"
        )
    if action_dim is not None and recordings.action_dim != action_dim:
        raise ConfigError(
            f"{recordings.folder}: expected actions of length {action_dim}, which the model takes, got "
            f"{recordings.action_dim}: train and validate on recordings of one environment"
        )


def warn_of_large_actions(recordings: Recordings) -> None:
    """Warn of actions without a described space that leave [-1, 1]: the learned environment takes no such actions."""
    if recordings.action_space or not recordings.action_dim:
        return
    largest = max(float(np.abs(episode.actions).max(initial=0)) for episode in recordings.episodes)
    if largest > 1:
        warnings.warn(
            f"{recordings.folder}: actions reach {largest:g}, but the learned environment takes them in [-1, 1] and "
            "clips others: scale them before they are recorded or converted",
            stacklevel=3,
        )
