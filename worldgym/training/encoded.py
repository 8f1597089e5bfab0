"""Encoded segments, on which a transformer is trained."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from worldgym.data.recordings import Batch, to_unit
from worldgym.tokenizer.base import Tokenizer


class EncodedBatch(NamedTuple):
    """Segments as codes, with the actions and rewards of the steps to the future frames.

    Attributes:
        context: int64 ``[B, C, n]``.
        future: int64 ``[B, T, m]``.
        actions: float32 ``[B, T, A]``.
        rewards: float32 ``[B, T]``.
        successes: bool ``[B, T]``; None where they are unknown.
        terminations: bool ``[B, T]``; None where they are unknown.
        weights: float32 ``[B, T]``, of each frame in the loss; None weighs all equally.
        frame_errors: float32 ``[B, T]``, logarithms of the mean squared errors of imagined frames; None unless known.
        total: the sum of the weights by which means divide, for a part of a batch; that of ``weights`` unless given.
        ended: bool ``[B, T]``, steps behind the end of an episode that terminated; None if there are none. They count
            for the termination head alone.
    """

    context: Tensor
    future: Tensor
    actions: Tensor
    rewards: Tensor
    successes: Tensor | None = None
    terminations: Tensor | None = None
    weights: Tensor | None = None
    frame_errors: Tensor | None = None
    total: Tensor | None = None
    ended: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "EncodedBatch":
        """The batch with a function applied to every tensor."""
        return EncodedBatch(*(None if tensor is None else change(tensor) for tensor in self))  # type: ignore[arg-type]

    def mean(self, errors: Tensor) -> Tensor:
        """The weighted mean of the frames' errors ``[B, T]``."""
        if self.weights is None:
            return errors.mean()
        return (errors * self.weights).sum() / (self.weights.sum() if self.total is None else self.total)


@torch.no_grad()
def encode_batch(tokenizer: Tokenizer, batch: Batch) -> EncodedBatch:
    """Encode segments.

    Args:
        tokenizer: in evaluation mode.
        batch: the segments.

    Returns:
        The encoded segments, on the tokenizer's device.
    """
    split, device = tokenizer.layout.context_length, next(tokenizer.parameters()).device
    frames = to_unit(batch.frames.to(device))
    context, features = tokenizer.encode_context(frames[:, :split])
    future = tokenizer.encode_future(frames[:, split:], features)
    steps = (None if values is None else values[:, split - 1 :].to(device) for values in batch[1:])
    return EncodedBatch(context, future, *steps)  # type: ignore[arg-type]


def stacked(segments: Sequence[EncodedBatch]) -> EncodedBatch:
    """A batch of single segments, whose tensors have no batch dimension; all know the same of their steps."""
    parts = zip(*segments, strict=True)
    return EncodedBatch(*(None if tensors[0] is None else torch.stack(tensors) for tensors in parts))  # type: ignore
