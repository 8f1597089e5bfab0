"""Segments with a goal: their last frame, put first as one of the context frames (paper, section 3.2)."""

import torch
from torch import Tensor

from worldgym.data.recordings import Batch


def with_goal(batch: Batch) -> Batch:
    """Put the last frame of every segment first, too.

    Args:
        batch: segments of L frames.

    Returns:
        Segments of L + 1 frames. The step from the goal to the next frame has an action of zeros and no reward.
    """
    frames = torch.cat([batch.frames[:, -1:], batch.frames], dim=1)
    return Batch(frames, *(None if steps is None else _after_blank(steps) for steps in batch[1:]))  # type: ignore[arg-type]


def _after_blank(steps: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(steps[:, :1]), steps], dim=1)
