"""The cached path through the transformer: read the context once, then imagine one frame after the other.

It computes what :meth:`Transformer.forward` computes, without dropout, one position at a time; on a CPU in compiled
code (``frame.py``) where there is a compiler, on a GPU as a captured graph (``graphs.py``).
"""

from typing import NamedTuple

from torch import Tensor

from worldgym.transformer.decoding import cuda_graph, native
from worldgym.transformer.cache import KeyValueCache
from worldgym.transformer.llama import Transformer, causal_attention, rotary_tables
from worldgym.transformer.decoding.eager import Drawn, draw_codes


class ImaginedFrame(NamedTuple):
    """One frame before it is decoded."""

    codes: Tensor
    """int64 ``[B, tokens_per_frame]``, dynamics codes."""
    reward: Tensor | None
    """float ``[B]``, as the head gives it (before the inverse reward transform)."""
    uncertainty: Tensor
    """float32 ``[B]``: entropy in nats of the distribution over dynamics codes, mean over the frame's codes."""


def read_context(transformer: Transformer, context_codes: Tensor, positions: int | None = None) -> KeyValueCache:
    """Run context codes ``[B, C, tokens_per_context_frame]`` through the blocks into a new cache.

    positions: capacity of the cache; None is all that the transformer has.
    """
    tokens_BN = transformer.layout.context_ids(context_codes)
    batch, length = tokens_BN.shape
    x_BND = transformer.placed(transformer.embed(tokens_BN))
    cache = KeyValueCache(transformer.config, batch, positions, x_BND.device, x_BND.dtype, transformer.action_dim)
    rotary = rotary_tables(cache.positions(length)[0], transformer.config, x_BND.dtype)
    blocks = transformer.llm.model.blocks
    for index, block in enumerate(blocks):
        q, k, v = block.project(x_BND, rotary)
        cache.fill(index, k, v)
        if index + 1 < len(blocks):  # of the last block only keys and values are ever looked at
            x_BND = block.finish(x_BND, causal_attention(q, k, v))
    cache.filled(length)
    return cache


def imagine_frame(
    transformer: Transformer,
    cache: KeyValueCache,
    action: Tensor | None,
    uniforms: Tensor,
    temperature: float = 1.0,
    top_k: int = 100,
) -> ImaginedFrame:
    """Append one future frame to the cache: its slot with the action ``[B, A]``, then its codes, drawn one by one.

    uniforms: float ``[B, tokens_per_frame]`` in [0, 1), one for each code.
    """
    if action is not None:
        cache.travel = cache.travel + action
    x_B1D = transformer.slot(action, cache.travel)
    given = transformer, cache, x_B1D.squeeze(1), uniforms, temperature, top_k
    codes, uncertainty, hidden_BD = (
        native.imagine_codes(*given) or cuda_graph.imagine_codes(*given) or _position_by_position(*given)
    )
    reward = None
    if transformer.reward_linear is not None:
        reward = transformer.reward_linear(hidden_BD.to(x_B1D.dtype)).squeeze(-1)
    return ImaginedFrame(codes, reward, uncertainty)


def _position_by_position(
    transformer: Transformer, cache: KeyValueCache, slots_BD: Tensor, uniforms: Tensor, temperature: float, top_k: int
) -> Drawn:
    """What :func:`worldgym.transformer.decoding.native.imagine_codes` computes, on any device and in any precision."""
    count = transformer.layout.step_length
    rotary = rotary_tables(cache.positions(count), transformer.config, cache.dtype)
    places = cache.places(count)

    def attend(layer: int, step: int, q_BH1E: Tensor, k_BK1E: Tensor, v_BK1E: Tensor) -> Tensor:
        return cache.attend(layer, places[step], q_BH1E, k_BK1E, v_BK1E)

    return draw_codes(transformer, slots_BD, uniforms, rotary, attend, temperature, top_k)
