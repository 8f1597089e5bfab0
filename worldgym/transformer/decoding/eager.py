"""The codes of one frame in PyTorch operators: position by position, on any device and in any dtype."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from worldgym.transformer.cache import KeyValueCache
from worldgym.transformer.llama import Rotary, rotary_tables
from worldgym.transformer.sampling import entropy, sample_top_k
from worldgym.transformer.transformer import Transformer

Attend = Callable[[int, int, Tensor, Tensor, Tensor], Tensor]
"""``attend(layer, offset, q, k, v)``: store key and value ``[B, K, 1, E]``; return the attention ``[B, H, 1, E]``."""


class SampledCodes(NamedTuple):
    """The codes of one frame."""

    codes: Tensor
    """int64 ``[B, n]``."""
    uncertainty: Tensor
    """float32 ``[B]``, mean entropy in nats."""
    hidden: Tensor
    """``[B, D]``, hidden state of the last position."""


def sample_codes(
    transformer: Transformer, cache: KeyValueCache, slots_BD: Tensor, uniforms: Tensor, temperature: float, top_k: int
) -> SampledCodes:
    """Process all positions of one frame; see :func:`worldgym.transformer.decoding.frame.imagine_frame`.

    Args:
        transformer: the model.
        cache: the past; the frame's positions are appended.
        slots_BD: embeddings of the frame's slot ``[B, D]``.
        uniforms: float ``[B, n]`` in [0, 1).
        temperature: of sampling.
        top_k: of sampling.
    """
    count = transformer.layout.step_length
    rotary = rotary_tables(cache.positions(count), transformer.config, cache.dtype)
    positions = cache.reserve(count)

    def attend(layer: int, offset: int, q_BH1E: Tensor, k_BK1E: Tensor, v_BK1E: Tensor) -> Tensor:
        return cache.attend(layer, positions[offset], q_BH1E, k_BK1E, v_BK1E)

    return process_positions(transformer, slots_BD, uniforms, rotary, attend, temperature, top_k)


def process_positions(
    transformer: Transformer,
    slots_BD: Tensor,
    uniforms: Tensor,
    rotary: Rotary,
    attend: Attend,
    temperature: float,
    top_k: int,
) -> SampledCodes:
    """As :func:`sample_codes`, for any kind of cache.

    No operation waits for the device or depends on a tensor's content, so that a CUDA graph can be made of them.

    Args:
        transformer: the model.
        slots_BD: embeddings of the frame's slot ``[B, D]``.
        uniforms: float ``[B, n]`` in [0, 1).
        rotary: cosines and sines of the frame's positions, ``[1 or B, n + 1, E]``.
        attend: stores and reads keys and values.
        temperature: of sampling.
        top_k: of sampling.
    """
    layout, model = transformer.layout, transformer.llm.model
    cosines, sines = rotary
    code_weights_KD = transformer.llm.lm_head.weight[layout.dynamics_ids]
    x_B1D, codes, entropies = slots_BD[:, None], [], []
    for offset in range(layout.step_length):
        x_B1D = transformer.add_frame_position_embedding(x_B1D, offset)
        rotation = cosines[:, None, offset : offset + 1], sines[:, None, offset : offset + 1]
        for index, block in enumerate(model.blocks):
            x_B1D = block.finish(x_B1D, attend(index, offset, *block.project(x_B1D, rotation)))
        hidden_BD = model.norm(x_B1D.squeeze(1))
        if offset < layout.tokens_per_frame:
            logits_BK = F.linear(hidden_BD, code_weights_KD)
            codes.append(sample_top_k(logits_BK, uniforms[:, offset], temperature, top_k))
            entropies.append(entropy(logits_BK))
            x_B1D = model.embed_tokens(layout.dynamics_id(codes[-1]))[:, None]
    return SampledCodes(torch.stack(codes, dim=1), torch.stack(entropies, dim=1).mean(dim=1), hidden_BD)
