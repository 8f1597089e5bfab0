"""Batches of steps that an agent is trained on, and of what goes before imagined steps.

Shapes: B batch rows, S stacked frames, L frames, K actions, H x W pixels, A action dimension.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Transitions(NamedTuple):
    """A batch of steps: tensors on the CPU, contiguous."""

    frames: Tensor
    """uint8 ``[B, S, H, W, 3]``, oldest first."""
    actions: Tensor
    """float32 ``[B, A]``."""
    rewards: Tensor
    """float32 ``[B]``: the discounted sum over n steps, or over as many as the episode has left."""
    discounts: Tensor
    """float32 ``[B]``: the factor of the value of ``next_frames``, gamma^k; 0 if the episode terminated there."""
    next_frames: Tensor
    """uint8 ``[B, S, H, W, 3]``: k steps later."""


class Starts(NamedTuple):
    """What went before the steps from which rollouts start."""

    frames: NDArray[np.uint8]
    """uint8 ``[B, L, H, W, 3]``, newest last; before an episode's beginning its first frame is repeated."""
    actions: NDArray[np.float32]
    """float32 ``[B, K, A]``, the last of which led to the newest frame; 0 before an episode's beginning."""
    known: NDArray[np.int64]
    """int64 ``[B]``, from 0 to K: how many of them were taken."""
