"""Drawing ids: top-k and temperature by inverse CDF from given uniforms, so that every row owns its randomness.

Nothing here waits for the device, and nothing depends on a global generator.
"""

import torch
from torch import Tensor


def sample_top_k(logits_BV: Tensor, uniforms_B: Tensor, temperature: float = 1.0, top_k: int = 100) -> Tensor:
    """Draw one index a row, int64 ``[B]``, from the ``top_k`` largest logits ``[B, V]`` (1: exactly argmax).

    uniforms_B: float ``[B]`` in [0, 1); equal uniforms draw equal indices. Of a ``top_k`` above V, V is taken.
    """
    if top_k == 1:
        return logits_BV.argmax(dim=-1)
    values, indices = logits_BV.float().topk(min(top_k, logits_BV.shape[1]))
    cumulative = (values / temperature).softmax(dim=-1).cumsum(dim=-1)
    # Scaled by the total, which rounding keeps from being exactly 1.
    threshold = uniforms_B.float()[:, None] * cumulative[:, -1:]
    drawn = (cumulative <= threshold).sum(dim=-1, keepdim=True).clamp(max=values.shape[1] - 1)
    return indices.gather(1, drawn).squeeze(1)


def entropy(logits_BV: Tensor) -> Tensor:
    """Entropy of the softmax in nats, float32 ``[B]``."""
    share = logits_BV.float().softmax(dim=-1)
    total: Tensor = torch.special.entr(share).sum(dim=-1)
    return total
