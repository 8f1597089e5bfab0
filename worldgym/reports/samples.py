"""Many imagined futures of one context, some at a time."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldgym.config import Sampling
from worldgym.world_model import WorldModel

ROWS = 32  # futures in one batch of the model, which bounds memory


class Samples(NamedTuple):
    """Some futures.

    Attributes:
        frames: uint8 ``[N, T, H, W, 3]``, on the CPU.
        rewards: float32 ``[N, T]``, on the CPU; NaN if the model predicts none.
    """

    frames: Tensor
    rewards: Tensor


def imagine_samples(
    model: WorldModel,
    context: NDArray[np.uint8],
    actions: NDArray[np.float32] | None,
    horizon: int,
    count: int,
    sampling: Sampling,
    generator: torch.Generator,
) -> Iterator[Samples]:
    """Imagine futures of one context, which is encoded once.

    Args:
        model: the world model.
        context: uint8 ``[C, H, W, 3]``.
        actions: float32 ``[T, A]``; None for an action-free model.
        horizon: T.
        count: number of futures.
        sampling: of the tokens.
        generator: of the sampled tokens.

    Yields:
        At most :data:`ROWS` futures at a time.
    """
    begun = model.start(context[None])
    for first in range(0, count, ROWS):
        state = begun.fork(min(ROWS, count - first))
        frames, rewards = [], []
        for step in range(horizon):
            action = None if actions is None else np.repeat(actions[None, step], len(state), axis=0)
            state, frame, reward = model.step(state, action, sampling.temperature, sampling.top_k, generator)
            frames.append(frame.cpu())
            rewards.append(reward.cpu())
        yield Samples(torch.stack(frames, dim=1), torch.stack(rewards, dim=1))
