"""The codes of one frame in compiled code: one call instead of about a thousand small operators."""

import ctypes
import functools

import torch
from torch import Tensor

from worldgym import native
from worldgym.native import Pointer, pointer
from worldgym.transformer.cache import KeyValueCache
from worldgym.transformer.decoding.eager import SampledCodes
from worldgym.transformer.llama import rotary_angles
from worldgym.transformer.transformer import Transformer

WEIGHTS = ("input_norm", "q", "k", "v", "o", "output_norm", "gate", "up", "down")
CACHES = ("keys", "values", "shared_keys", "shared_values")


class _Layer(ctypes.Structure):
    """The struct ``Layer`` of ``native.c``."""

    _fields_ = [(name, Pointer) for name in (*WEIGHTS, *CACHES)]


class _DecodeCall(ctypes.Structure):
    """The struct ``DecodeCall`` of ``native.c``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "layers", "hidden", "heads", "kv_heads", "head_dim", "mlp")),
        *((name, ctypes.c_int64) for name in ("codes", "tokens", "capacity", "shared_capacity")),
        *((name, ctypes.c_int64) for name in ("top_k", "half", "threads")),
        *((name, ctypes.c_float) for name in ("eps", "temperature")),
        *((name, Pointer) for name in ("layer", "norm", "head", "embedding", "position", "cosines", "sines")),
        *((name, Pointer) for name in ("lengths", "shared_lengths", "shared_rows", "slots", "uniforms")),
        *((name, Pointer) for name in ("sampled", "entropy", "last")),
    ]


def sample_codes(
    transformer: Transformer, cache: KeyValueCache, slots_BD: Tensor, uniforms: Tensor, temperature: float, top_k: int
) -> SampledCodes | None:
    """As :func:`worldgym.transformer.decoding.eager.sample_codes`, with the hidden state in float32.

    Returns:
        None if there is no compiled code for this machine, device or dtype.

    Raises:
        InvalidBuffer: if a tensor or the cache does not fit the model; nothing is changed then.
    """
    dtype = cache.dtype
    if cache.device.type != "cpu" or dtype not in native.DTYPES or transformer.llm.lm_head.weight.dtype is not dtype:
        return None
    library = native.library()
    if library is None:
        return None
    layout, hidden, batch = transformer.layout, transformer.config.hidden_size, len(cache.lengths)
    cache.check_remaining(layout.step_length)
    slots, uniforms = slots_BD.float().contiguous(), uniforms.float().contiguous()
    codes = torch.empty(batch, layout.tokens_per_frame, dtype=torch.int64, device="cpu")
    entropy = torch.zeros(batch, dtype=torch.float32, device="cpu")
    last = torch.empty(batch, hidden, dtype=torch.float32, device="cpu")
    call, kept = _prepare_call(transformer, cache, temperature, top_k)
    call.slots = pointer("slots", slots, torch.float32, batch * hidden)
    call.uniforms = pointer("uniforms", uniforms, torch.float32, codes.numel())
    call.sampled = pointer("codes", codes, torch.int64, batch * layout.tokens_per_frame)
    call.entropy = pointer("entropy", entropy, torch.float32, batch)
    call.last = pointer("hidden state", last, torch.float32, batch * hidden)
    if library.decode_codes(ctypes.byref(call)):
        raise MemoryError(f"no memory for the work space of {batch} rows; use a smaller batch")
    del kept  # the library reads from it until here
    cache.advance(layout.step_length)
    return SampledCodes(codes, entropy, last)


def _prepare_call(
    transformer: Transformer, cache: KeyValueCache, temperature: float, top_k: int
) -> tuple[_DecodeCall, list[object]]:
    """The library's argument without inputs and outputs, and what must outlive the call."""
    config, layout, model, dtype = transformer.config, transformer.layout, transformer.llm.model, cache.dtype
    hidden, table = config.hidden_size, cache.capacity * config.head_dim // 2
    head = transformer.llm.lm_head.weight[layout.dynamics_ids]
    embedding = model.embed_tokens.weight[layout.dynamics_ids]
    cosines, sines = _rotary_tables(config.rope_theta, config.head_dim, cache.capacity)
    layers, lengths = _layers(transformer, cache), _int64(cache.own_lengths())
    call = _DecodeCall(
        batch=len(cache.lengths),
        layers=config.layers,
        hidden=hidden,
        heads=config.heads,
        kv_heads=config.key_value_heads,
        head_dim=config.head_dim,
        mlp=config.mlp_size,
        codes=layout.dynamics_codes,
        tokens=layout.tokens_per_frame,
        capacity=cache.keys[0].shape[2],
        top_k=max(1, min(top_k, layout.dynamics_codes)),
        half=dtype is torch.bfloat16,
        threads=torch.get_num_threads(),
        eps=config.norm_eps,
        temperature=temperature,
        layer=ctypes.addressof(layers),
        norm=pointer("norm.weight", model.norm.weight, dtype, hidden),
        head=pointer("lm_head.weight", head, dtype, layout.dynamics_codes * hidden),
        embedding=pointer("embed_tokens.weight", embedding, dtype, layout.dynamics_codes * hidden),
        cosines=pointer("cosines", cosines, torch.float32, table),
        sines=pointer("sines", sines, torch.float32, table),
        lengths=pointer("lengths", lengths, torch.int64, len(cache.lengths)),
    )
    kept: list[object] = [layers, lengths, cosines, sines]
    if transformer.place_embedding is not None:
        rows = transformer.place_embedding.weight[layout.prefix_length :]
        call.position = pointer("place_embedding.weight", rows, dtype, layout.step_length * hidden)
    if cache.prefix is not None:
        shared = _int64(cache.prefix.shared_lengths()), _int64(cache.prefix.rows)
        call.shared_capacity = cache.prefix.keys[0].shape[2]
        call.shared_lengths = pointer("shared lengths", shared[0], torch.int64, len(cache.lengths))
        call.shared_rows = pointer("shared rows", shared[1], torch.int64, len(cache.lengths))
        kept.append(shared)
    return call, kept


def _layers(transformer: Transformer, cache: KeyValueCache) -> "ctypes.Array[_Layer]":
    """Addresses of all layers' weights and of their keys and values."""
    config, prefix, dtype = transformer.config, cache.prefix, cache.dtype
    width, queries, keys = config.hidden_size, config.heads * config.head_dim, config.key_value_heads * config.head_dim
    mlp, stored = width * config.mlp_size, len(cache.lengths) * keys * cache.keys[0].shape[2]
    sizes = [width, width * queries, width * keys, width * keys, width * queries, width, mlp, mlp, mlp, stored, stored]
    if prefix is not None:
        sizes += [len(prefix.lengths) * keys * prefix.keys[0].shape[2]] * 2
    layers = (_Layer * config.layers)()
    for index, block in enumerate(transformer.llm.model.blocks):
        attention, mlp_block = block.self_attn, block.mlp
        tensors: tuple[Tensor, ...] = (
            block.input_layernorm.weight,
            attention.q_proj.weight,
            attention.k_proj.weight,
            attention.v_proj.weight,
            attention.o_proj.weight,
            block.post_attention_layernorm.weight,
            mlp_block.gate_proj.weight,
            mlp_block.up_proj.weight,
            mlp_block.down_proj.weight,
            cache.keys[index],
            cache.values[index],
        )
        if prefix is not None:
            tensors += (prefix.keys[index], prefix.values[index])
        layer = layers[index]
        for name, tensor, size in zip((*WEIGHTS, *CACHES), tensors, sizes, strict=False):
            setattr(layer, name, pointer(name, tensor, dtype, size))
    return layers


def _int64(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device="cpu")


@functools.lru_cache(maxsize=8)
def _rotary_tables(theta: float, head_dim: int, positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 ``[positions, E / 2]``."""
    angles = rotary_angles(torch.arange(positions, device="cpu"), head_dim, theta)
    return angles.cos(), angles.sin()
