"""LLaMA blocks, with rotary positions and grouped query heads.

Parameter names are those of Hugging Face's LLaMA. Shape suffixes: B batch, N positions, D hidden size, H heads,
K key/value heads, E head dimension, V vocabulary.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldgym.config import TransformerConfig

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of rotary positions, see :func:`rotary_tables`."""


class Attention(nn.Module):
    """Causal self-attention with rotary positions; several query heads may share a key/value head."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, head = config.hidden_size, config.head_dim
        self.heads, self.key_value_heads, self.head_dim = config.heads, config.key_value_heads, head
        self.q_proj = nn.Linear(width, config.heads * head, bias=False)
        self.k_proj = nn.Linear(width, config.key_value_heads * head, bias=False)
        self.v_proj = nn.Linear(width, config.key_value_heads * head, bias=False)
        self.o_proj = nn.Linear(config.heads * head, width, bias=False)

    def project(self, x_BND: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[B, H, N, E]``, keys and values ``[B, K, N, E]``; queries and keys are rotated."""
        batch, length, _ = x_BND.shape
        q = self.q_proj(x_BND).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x_BND).view(batch, length, self.key_value_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x_BND).view(batch, length, self.key_value_heads, self.head_dim).transpose(1, 2)
        return rotate(q, rotary), rotate(k, rotary), v

    def merge(self, mixed_BHNE: Tensor) -> Tensor:
        """The heads' outputs, projected back to ``[B, N, D]``."""
        x_BND: Tensor = self.o_proj(mixed_BHNE.transpose(1, 2).flatten(2))
        return x_BND


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.mlp_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.mlp_size, bias=False)
        self.down_proj = nn.Linear(config.mlp_size, config.hidden_size, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        mixed: Tensor = self.down_proj(F.silu(self.gate_proj(x_BND)) * self.up_proj(x_BND))
        return mixed


class Layer(nn.Module):
    """One pre-norm block."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = MLP(config)

    def project(self, x_BND: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the normed input."""
        return self.self_attn.project(self.input_layernorm(x_BND), rotary)

    def finish(self, x_BND: Tensor, mixed_BHNE: Tensor) -> Tensor:
        """The rest of the block, given the attention's result for :meth:`project`'s outputs."""
        x_BND = x_BND + self.self_attn.merge(mixed_BHNE)
        update: Tensor = self.mlp(self.post_attention_layernorm(x_BND))
        return x_BND + update


class LlamaModel(nn.Module):
    """Embedding, blocks, final norm."""

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)

    @property
    def blocks(self) -> list[Layer]:
        """``layers``, typed."""
        return cast(list[Layer], list(self.layers))


class LanguageModel(nn.Module):
    """The bare language model: :class:`LlamaModel` and its head."""

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        super().__init__()
        self.model = LlamaModel(config, vocab_size)
        self.lm_head = nn.Linear(config.hidden_size, vocab_size, bias=False)


def causal_attention(
    q_BHNE: Tensor, k_BKNE: Tensor, v_BKNE: Tensor, dropout: float = 0.0, visible: Tensor | None = None
) -> Tensor:
    """Attention of every position to itself and those before it.

    Args:
        q_BHNE: queries ``[B, H, N, E]``.
        k_BKNE: keys ``[B, K, M, E]``; M is N, or larger if ``visible`` is given.
        v_BKNE: values ``[B, K, M, E]``.
        dropout: probability of dropping an attention weight.
        visible: bool ``[N, M]``, which keys each query attends to; None: as many as its number.

    Returns:
        ``[B, H, N, E]``.
    """
    groups = q_BHNE.shape[1] // k_BKNE.shape[1]
    if groups > 1:
        k_BKNE = k_BKNE[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)
        v_BKNE = v_BKNE[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)
    causal = visible is None
    return F.scaled_dot_product_attention(q_BHNE, k_BKNE, v_BKNE, visible, dropout_p=dropout, is_causal=causal)


def rotary_angles(positions: Tensor, head_dim: int, theta: float) -> Tensor:
    """Rotation angles of the pairs of a head, float32 ``[*positions.shape, E / 2]``."""
    half = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    return positions[..., None].float() * (1.0 / theta ** (half / head_dim))


def rotary_tables(positions: Tensor, config: TransformerConfig, dtype: torch.dtype) -> Rotary:
    """Cosines and sines ``[*positions.shape, E]``; the sines include the sign of the half that is swapped in."""
    angles = rotary_angles(positions, config.head_dim, config.rope_theta)
    sines = angles.sin()
    return torch.cat([angles.cos()] * 2, dim=-1).to(dtype), torch.cat([-sines, sines], dim=-1).to(dtype)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotary position embedding of ``[..., N, E]`` (halves swapped, as LLaMA does)."""
    cosines, sines = rotary
    return x * cosines + x.roll(x.shape[-1] // 2, dims=-1) * sines
