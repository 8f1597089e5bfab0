"""Frames to codes and back, some frames at a time."""

import torch
from torch import Tensor

from worldgym.tokenizer.base import ContextFeatures, Tokenizer
from worldgym.world_model.memory import TOKENIZER_ROWS


def encode_contexts(tokenizer: Tokenizer, frames: Tensor, dtype: torch.dtype) -> tuple[Tensor, ContextFeatures]:
    """Encode contexts.

    Args:
        tokenizer: the tokenizer.
        frames: uint8 ``[B, C, H, W, 3]``.
        dtype: of the tokenizer's weights.

    Returns:
        Context codes and features.
    """
    chunks = frames.split(max(1, TOKENIZER_ROWS // frames.shape[1]))
    parts = [tokenizer.encode_context(chunk.to(dtype).div(255).movedim(-1, -3)) for chunk in chunks]
    if len(parts) == 1:
        return parts[0]
    stored = zip(*(features.stored for _, features in parts), strict=True)
    return torch.cat([codes for codes, _ in parts]), ContextFeatures(tuple(torch.cat(some) for some in stored))


def encode_known(tokenizer: Tokenizer, frames: Tensor, features: ContextFeatures, dtype: torch.dtype) -> Tensor:
    """Dynamics codes, int64 ``[B, K, n]``, of real frames behind their context, uint8 ``[B, K, H, W, 3]``."""
    rows = torch.arange(len(frames), device=frames.device).split(max(1, TOKENIZER_ROWS // frames.shape[1]))
    parts = [
        tokenizer.encode_future(frames[chunk].to(dtype).div(255).movedim(-1, -3), features.select(chunk))
        for chunk in rows
    ]
    return torch.cat(parts)


def decode_frame(tokenizer: Tokenizer, codes: Tensor, features: ContextFeatures) -> Tensor:
    """Pixels ``[B, 3, H, W]`` in [0, 1] of one frame's dynamics codes ``[B, n]``."""
    if len(codes) <= TOKENIZER_ROWS and features.rows is None:
        return tokenizer.decode_future(codes[:, None], features)[:, 0].clamp(0, 1)
    chunks = torch.arange(len(codes), device=codes.device).split(TOKENIZER_ROWS)
    return torch.cat([decode_frame(tokenizer, codes[rows], features.select(rows)) for rows in chunks])


def to_uint8(pixels: Tensor) -> Tensor:
    """Pixels ``[B, 3, H, W]`` in [0, 1] to frames, uint8 ``[B, H, W, 3]``."""
    return pixels.float().mul(255).round().to(torch.uint8).movedim(1, -1)
