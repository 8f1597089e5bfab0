"""``frame.c`` compiled for this machine: a frame's positions in one call instead of some thousand small operators.

The norms of the frame's decoder are in it as well, for ``tokenizer/norm.py``.

The library is built once with the system's C compiler into the user's cache. Without a compiler, or with
``WORLDGYM_NATIVE=0`` in the environment, :func:`library` is None and the plain path runs.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from worldgym.transformer.cache import KeyValueCache
from worldgym.transformer.llama import Transformer, rotary_angles

SOURCE = Path(__file__).with_name("frame.c")
FLAGS = ("-O3", "-fPIC", "-shared", "-Wno-psabi")
WISHES = (("-march=native", "-fopenmp"), ("-march=native",), ("-fopenmp",), ())  # the first that a compiler knows
SWITCH = "WORLDGYM_NATIVE"

Pointer = ctypes.c_void_p


DTYPES = (torch.float32, torch.bfloat16)
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
) -> tuple[Tensor, Tensor, Tensor] | None:
    """All positions of one frame: codes int64 ``[B, n]``, mean entropy float32 ``[B]``, last hidden float32 ``[B, D]``.

    slots_BD: the slot's embedding with its action. None where this machine, device or dtype has no native path.
    """
    dtype, weights = cache.dtype, transformer.llm.lm_head.weight
    if cache.device.type != "cpu" or dtype not in DTYPES or weights.dtype is not dtype:
        return None
    if (built := library()) is None:
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
    return codes, entropy, last


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


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled library; None without one, which is said once on stderr."""
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        return ctypes.CDLL(str(_built()))
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:  # also: no home folder, a torn CC
        print(
            f"worldgym: imagining without compiled code, several times slower: {error}; a C compiler (Debian: "
            f"`apt-get install gcc`) or the variable CC that names one helps, {SWITCH}=0 silences this",
            file=sys.stderr,
        )
        return None


def _built() -> Path:
    """The library for this source, compiler and processor, built if it is not there yet."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise FileNotFoundError("found no C compiler")
    about = [compiler, *FLAGS, str(WISHES), platform.machine(), _processor()]
    name = hashlib.sha256(SOURCE.read_bytes() + "\n".join(about).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "worldgym"
    path = folder / f"frame-{name}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            _compile(compiler, Path(aside) / "frame.so")
            (Path(aside) / "frame.so").replace(path)  # whole or not at all, whoever else builds it now
    return path


def _compile(compiler: str, target: Path) -> None:
    """For this very processor and with threads, where the compiler knows how."""
    for wishes in WISHES:
        command = [*shlex.split(compiler), *FLAGS, *wishes, str(SOURCE), "-o", str(target), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode == 0:
            return
    said = [line for line in done.stderr.splitlines() if "error" in line] or ["no reason given"]
    raise OSError(f"{compiler} cannot compile {SOURCE.name} ({said[0]})")


def _processor() -> str:
    """What tells processors apart: code for one of them may not run on another that shares its home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return platform.processor()
