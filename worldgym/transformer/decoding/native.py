"""A whole frame in compiled code: its positions in one call instead of some thousand small operators."""

import ctypes
import functools

import torch
from torch import Tensor

from worldgym import native
from worldgym.native import Pointer
from worldgym.transformer.cache import KeyValueCache
from worldgym.transformer.llama import Transformer, rotary_angles
from worldgym.transformer.decoding.eager import Drawn

WEIGHTS = ("input_norm", "q", "k", "v", "o", "output_norm", "gate", "up", "down")
CACHES = ("keys", "values", "shared_keys", "shared_values")


class _Layer(ctypes.Structure):
    _fields_ = [(name, Pointer) for name in (*WEIGHTS, *CACHES)]


class _Frame(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "layers", "hidden", "heads", "kv_heads", "head_dim", "mlp")),
        *((name, ctypes.c_int64) for name in ("codes", "tokens", "capacity", "shared_capacity")),
        *((name, ctypes.c_int64) for name in ("top_k", "half", "threads")),
        *((name, ctypes.c_float) for name in ("eps", "temperature")),
        *((name, Pointer) for name in ("layer", "norm", "head", "embedding", "place", "cosines", "sines")),
        *((name, Pointer) for name in ("lengths", "shared_lengths", "shared_rows", "slots", "uniforms")),
        *((name, Pointer) for name in ("drawn", "entropy", "last")),
    ]


def imagine_codes(
    transformer: Transformer,
    cache: KeyValueCache,
    slots_BD: Tensor,
    uniforms: Tensor,
    temperature: float,
    top_k: int,
) -> Drawn | None:
    """All positions of one frame from the slots' embeddings; None where machine, device or dtype has no compiled path.

    The last hidden state is float32 in either dtype.
    """
    dtype, weights = cache.dtype, transformer.llm.lm_head.weight
    if cache.device.type != "cpu" or dtype not in native.DTYPES or weights.dtype is not dtype:
        return None
    if (built := native.library()) is None:
        return None
    layout, batch = transformer.layout, len(slots_BD)
    codes = torch.empty(batch, layout.tokens_per_frame, dtype=torch.int64)
    assert len(cache.lengths) == batch, "one slot a row"
    assert uniforms.shape == codes.shape, "one uniform a code"
    assert min(cache.room()) >= layout.step_length, "the caller makes room"
    entropy, last = torch.zeros(batch), torch.empty(batch, transformer.config.hidden_size)
    inputs = slots_BD.float().contiguous(), uniforms.float().contiguous()
    frame, kept = _frame(transformer, cache, dtype is torch.bfloat16, temperature, top_k)
    frame.slots, frame.uniforms = (_at(tensor) for tensor in inputs)
    frame.drawn, frame.entropy, frame.last = _at(codes), _at(entropy), _at(last)
    if built.imagine_frame(ctypes.byref(frame)):
        raise MemoryError(f"no memory for the work space of {batch} rows; use a smaller batch")
    del kept  # alive until here: the library reads from it
    cache.filled_more(layout.step_length)
    return Drawn(codes, entropy, last)


def _frame(
    transformer: Transformer, cache: KeyValueCache, half: bool, temperature: float, top_k: int
) -> tuple[_Frame, list[object]]:
    """The library's argument, and what must outlive the call."""
    config, layout, model = transformer.config, transformer.layout, transformer.llm.model
    cosines, sines = _tables(config.rope_theta, config.head_dim, cache.capacity)
    lengths = torch.tensor(cache.own_lengths())
    layers = (_Layer * config.layers)(*(_layer(transformer, cache, index) for index in range(config.layers)))
    frame = _Frame(
        batch=len(cache.lengths),
        layers=config.layers,
        hidden=config.hidden_size,
        heads=config.heads,
        kv_heads=config.key_value_heads,
        head_dim=config.head_dim,
        mlp=config.mlp_size,
        codes=layout.dynamics_codes,
        tokens=layout.tokens_per_frame,
        capacity=cache.keys[0].shape[2],
        top_k=min(top_k, layout.dynamics_codes),
        half=half,
        threads=torch.get_num_threads(),
        eps=config.norm_eps,
        temperature=temperature,
        layer=ctypes.addressof(layers),
        norm=_at(model.norm.weight),
        head=_at(transformer.llm.lm_head.weight[layout.dynamics_ids]),
        embedding=_at(model.embed_tokens.weight[layout.dynamics_ids]),
        cosines=_at(cosines),
        sines=_at(sines),
        lengths=_at(lengths),
    )
    kept: list[object] = [layers, lengths, cosines, sines]
    if transformer.place_embedding is not None:
        frame.place = _at(transformer.place_embedding.weight[layout.prefix_length :])
    if cache.prefix is not None:
        shared = torch.tensor(cache.prefix.own()), torch.tensor(cache.prefix.rows)
        frame.shared_capacity = cache.prefix.keys[0].shape[2]
        frame.shared_lengths, frame.shared_rows = (_at(tensor) for tensor in shared)
        kept.append(shared)
    return frame, kept


def _layer(transformer: Transformer, cache: KeyValueCache, index: int) -> _Layer:
    block = transformer.llm.model.blocks[index]
    attention, mlp = block.self_attn, block.mlp
    layer = _Layer(
        input_norm=_at(block.input_layernorm.weight),
        q=_at(attention.q_proj.weight),
        k=_at(attention.k_proj.weight),
        v=_at(attention.v_proj.weight),
        o=_at(attention.o_proj.weight),
        output_norm=_at(block.post_attention_layernorm.weight),
        gate=_at(mlp.gate_proj.weight),
        up=_at(mlp.up_proj.weight),
        down=_at(mlp.down_proj.weight),
        keys=_at(cache.keys[index]),
        values=_at(cache.values[index]),
    )
    if cache.prefix is not None:
        layer.shared_keys, layer.shared_values = _at(cache.prefix.keys[index]), _at(cache.prefix.values[index])
    return layer


def _at(tensor: Tensor) -> int:
    """Where its elements lie, one behind the other."""
    assert tensor.is_contiguous(), "the library knows no strides"
    return tensor.data_ptr()


@functools.lru_cache(maxsize=8)
def _tables(theta: float, head_dim: int, positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 ``[positions, E / 2]``."""
    angles = rotary_angles(torch.arange(positions), head_dim, theta)
    return angles.cos(), angles.sin()
