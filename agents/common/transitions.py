"""Batches of steps that an agent is trained on.

Shapes: B batch rows, S stacked frames, H x W pixels, A action dimension.
"""

from typing import NamedTuple

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
