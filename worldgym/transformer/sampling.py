"""Sampling of codes: top-k and temperature, by inverse CDF from given uniform numbers.

Every row has its own randomness. Nothing waits for the device or uses a global generator.
"""

import torch
from torch import Tensor


def sample_top_k(logits_BV: Tensor, uniforms_B: Tensor, temperature: float = 1.0, top_k: int = 100) -> Tensor:
    """Sample one index per row from the largest logits.

    Args:
        logits_BV: ``[B, V]``.
        uniforms_B: float ``[B]`` in [0, 1); equal numbers give equal indices.
        temperature: divides the logits.
        top_k: how many of the largest logits are considered; 1 is argmax, values above V mean V.

    Returns:
        int64 ``[B]``.
    """
    if top_k == 1:
        return logits_BV.argmax(dim=-1)
    values, indices = logits_BV.float().topk(min(top_k, logits_BV.shape[1]))
    cumulative = cumulative_sum((values / temperature).softmax(dim=-1), dim=-1)
    # Scaled by the total, which is not exactly 1 after rounding.
    threshold = uniforms_B.float()[:, None] * cumulative[:, -1:]
    drawn = (cumulative <= threshold).sum(dim=-1, keepdim=True).clamp(max=values.shape[1] - 1)
    return indices.gather(1, drawn).squeeze(1)


def cumulative_sum(values: Tensor, dim: int) -> Tensor:
    """``values.cumsum(dim)``, also with ``torch.use_deterministic_algorithms`` on a GPU, where PyTorch refuses it.

    There the order of sums is not guaranteed for long one-dimensional inputs; here rows are short.
    """
    if not values.is_cuda or not torch.are_deterministic_algorithms_enabled():
        return values.cumsum(dim)
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        return values.cumsum(dim)
    finally:
        torch.use_deterministic_algorithms(True, warn_only=warn_only)


def entropy(logits_BV: Tensor) -> Tensor:
    """Entropy of the softmax in nats, float32 ``[B]``."""
    share = logits_BV.float().softmax(dim=-1)
    total: Tensor = torch.special.entr(share).sum(dim=-1)
    return total
