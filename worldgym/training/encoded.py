"""Encoded segments, on which a transformer is trained."""

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
    """

    context: Tensor
    future: Tensor
    actions: Tensor
    rewards: Tensor


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
    actions, rewards = (values[:, split - 1 :].to(device) for values in (batch.actions, batch.rewards))
    return EncodedBatch(context, future, actions, rewards)
