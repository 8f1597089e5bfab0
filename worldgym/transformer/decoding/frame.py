"""Decoding with a key/value cache: process the context once, then append one future frame after the other.

The result is that of :meth:`Transformer.forward` without dropout. Three implementations compute it: compiled code on a
CPU (``native.py``), a captured graph on a GPU (``cuda_graph.py``), and PyTorch operators everywhere (``eager.py``).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from worldgym.isolation import torch_defaults
from worldgym.transformer.cache import KeyValueCache
from worldgym.transformer.decoding import cuda_graph, eager, native
from worldgym.transformer.llama import causal_attention, rotary_tables
from worldgym.transformer.sampling import cumulative_sum
from worldgym.transformer.transformer import StepValues, Transformer


class ImaginedFrame(NamedTuple):
    """One frame before it is decoded to pixels."""

    codes: Tensor
    """int64 ``[B, tokens_per_frame]``, dynamics codes."""
    values: StepValues
    """float ``[B]``: what the heads predict; ``[B, K]`` for a reward with bins."""
    uncertainty: Tensor
    """float32 ``[B]``, entropy in nats of the distribution over dynamics codes, mean over the frame's codes."""

    @property
    def reward(self) -> Tensor | None:
        """float ``[B]`` or ``[B, K]``, before it is decoded; None without a reward head."""
        return self.values.reward


@torch_defaults(grad=False)
def read_context(transformer: Transformer, context_codes: Tensor, positions: int | None = None) -> KeyValueCache:
    """Process the context.

    Args:
        transformer: the model.
        context_codes: int64 ``[B, C, tokens_per_context_frame]``.
        positions: capacity of the cache; None is all that the transformer has.

    Returns:
        A new cache with keys and values of the context.
    """
    tokens_BN = transformer.layout.context_ids(context_codes)
    batch, length = tokens_BN.shape
    x_BND = transformer.add_position_embedding(transformer.embed(tokens_BN))
    cache = KeyValueCache(
        transformer.config,
        batch,
        positions,
        device=x_BND.device,
        dtype=x_BND.dtype,
        action_dim=transformer.action_dim,
    )
    rotary = rotary_tables(cache.positions(length)[0], transformer.config, x_BND.dtype)
    blocks = transformer.llm.model.blocks
    for index, block in enumerate(blocks):
        q, k, v = block.project(x_BND, rotary)
        cache.fill(index, k, v)
        if index + 1 < len(blocks):  # the last block's output is not needed
            x_BND = block.finish(x_BND, causal_attention(q, k, v))
    cache.set_filled(length)
    return cache


@torch_defaults(grad=False)
def replace_future(transformer: Transformer, cache: KeyValueCache, codes: Tensor, actions: Tensor | None) -> None:
    """Replace all future frames in a cache by known ones; keys and values of the context stay.

    Args:
        transformer: the model.
        cache: changed in place.
        codes: of the frames, int64 ``[B, T, tokens_per_frame]``.
        actions: that led to them, float ``[B, T, A]``; None for action-free models.
    """
    cache.unshare()
    context = transformer.layout.prefix_length
    cache.set_filled(context)
    x_BND = transformer.embed_future(codes, actions)
    length = x_BND.shape[1]
    cache.check_remaining(length)
    rotary = rotary_tables(cache.positions(length)[0], transformer.config, x_BND.dtype)
    numbers = torch.arange(context + length, device=x_BND.device)
    visible = numbers <= numbers[context:, None]
    for index, block in enumerate(transformer.llm.model.blocks):
        q, k, v = block.project(x_BND, rotary)
        keys, values = cache.extend(index, context, k, v)
        x_BND = block.finish(x_BND, causal_attention(q, keys, values, visible=visible))
    cache.advance(length)
    if actions is not None:
        cache.cumulative_action = cumulative_sum(actions, dim=1)[:, -1]


@torch_defaults(grad=False)
def imagine_frame(
    transformer: Transformer,
    cache: KeyValueCache,
    action: Tensor | None,
    uniforms: Tensor,
    temperature: float = 1.0,
    top_k: int = 100,
) -> ImaginedFrame:
    """Append one future frame to the cache: its slot with the action, then its codes, sampled one by one.

    Args:
        transformer: the model.
        cache: the past, with at least ``layout.step_length`` free positions in every row.
        action: ``[B, A]``; None for action-free models.
        uniforms: float ``[B, tokens_per_frame]`` in [0, 1), one for each code.
        temperature: of sampling.
        top_k: of sampling; 1 is greedy.

    Raises:
        InvalidBuffer: if a tensor or the cache does not fit the model.
    """
    cumulative = cache.cumulative_action if action is None else cache.cumulative_action + action
    x_B1D = transformer.slot_embedding(action, cumulative)
    arguments = transformer, cache, x_B1D.squeeze(1), uniforms, temperature, top_k
    codes, uncertainty, hidden_BD = (
        native.sample_codes(*arguments) or cuda_graph.sample_codes(*arguments) or eager.sample_codes(*arguments)
    )
    cache.cumulative_action = cumulative
    return ImaginedFrame(codes, transformer.step_values(hidden_BD.to(x_B1D.dtype)), uncertainty)
