"""Frames to codes and back, some frames at a time."""

import torch
from torch import Tensor

from worldgym.tokenizer.base import ContextFeatures, Tokenizer
from worldgym.world_model.memory import TOKENIZER_ROWS

DETAIL_CHANGE = 0.1  # of a pixel in [0, 1], at which 1 / e of a shown frame's details is left


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


def remember_shown(
    tokenizer: Tokenizer, frames: Tensor, codes: Tensor, features: ContextFeatures, dtype: torch.dtype
) -> ContextFeatures:
    """Features by which :func:`decode_frame` keeps the details of a real frame where nothing has changed since.

    Args:
        tokenizer: the tokenizer.
        frames: the newest real frame of each row, uint8 ``[B, H, W, 3]``.
        codes: its dynamics codes, int64 ``[B, n]``.
        features: of the contexts.
        dtype: of the tokenizer's weights.
    """
    stored = features.tensors
    decoded = decode_frame(tokenizer, codes, ContextFeatures(stored))
    detail = frames.to(dtype).div(255).movedim(-1, -3) - decoded
    return ContextFeatures(stored, None, torch.stack([decoded, detail], dim=1))


def decode_frame(tokenizer: Tokenizer, codes: Tensor, features: ContextFeatures) -> Tensor:
    """Pixels ``[B, 3, H, W]`` in [0, 1] of one frame's dynamics codes ``[B, n]``."""
    if len(codes) <= TOKENIZER_ROWS and features.rows is None:
        pixels = tokenizer.decode_future(codes[:, None], features)[:, 0].clamp(0, 1)
        return pixels if features.shown is None else _with_details(pixels, features.shown)
    chunks = torch.arange(len(codes), device=codes.device).split(TOKENIZER_ROWS)
    return torch.cat([decode_frame(tokenizer, codes[rows], features.select(rows)) for rows in chunks])


def _with_details(pixels: Tensor, shown: Tensor) -> Tensor:
    """Decoded pixels ``[B, 3, H, W]``, corrected by the details of the shown frame, ``[B, 2, 3, H, W]``.

    Codes hold a frame only roughly. What they lost of the shown frame is still right where it is decoded as before.
    """
    decoded, detail = shown.unbind(1)
    change = (pixels - decoded).abs().amax(dim=1, keepdim=True)
    return (pixels + (-change / DETAIL_CHANGE).exp() * detail).clamp(0, 1)


def to_uint8(pixels: Tensor) -> Tensor:
    """Pixels ``[B, 3, H, W]`` in [0, 1] to frames, uint8 ``[B, H, W, 3]``."""
    return pixels.float().mul(255).round().to(torch.uint8).movedim(1, -1)
