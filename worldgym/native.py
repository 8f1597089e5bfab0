"""``native.c``, compiled for this machine: code that is several times faster on a CPU than PyTorch's operators.

The library is built once with the system's C compiler into the user's cache folder. Without a compiler, or with
``WORLDGYM_NATIVE=0`` in the environment, :func:`library` returns None and the paths in PyTorch operators run.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

from worldgym.errors import InvalidBuffer

SOURCE = Path(__file__).with_name("native.c")
FLAGS = ("-O3", "-fPIC", "-shared", "-Wno-psabi")
OPTIONAL_FLAGS = (("-march=native", "-fopenmp"), ("-march=native",), ("-fopenmp",), ())  # the first that works is used
SWITCH = "WORLDGYM_NATIVE"

DTYPES = (torch.float32, torch.bfloat16)
Pointer = ctypes.c_void_p


def switched_off() -> bool:
    """Whether the environment asks for PyTorch operators only."""
    return os.environ.get(SWITCH) == "0"


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled library; None if there is none. A warning, given once, says why."""
    if switched_off():
        return None
    try:
        return ctypes.CDLL(str(_build()))
    # RuntimeError: no home folder. ValueError: CC with unbalanced quotes.
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        warnings.warn(
            f"expected compiled code, got none ({error}): imagining is several times slower. Install a C compiler "
            f"(Debian: apt-get install gcc), name one in the variable CC, or set {SWITCH}=0 to silence this warning",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def pointer(
    name: str,
    tensor: Tensor,
    dtype: torch.dtype,
    numel: int,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> int:
    """The address of a tensor's elements, for compiled code.

    Every address that compiled code reads or writes must come from here.

    Args:
        name: what the tensor is, for the error message.
        tensor: the tensor; it must outlive the call of compiled code.
        dtype: the dtype that the compiled code works on.
        numel: the number of elements that it reads or writes.
        memory_format: the order of the elements; they must be dense.

    Raises:
        InvalidBuffer: if the tensor is not on the CPU, or has another dtype, number of elements or order.
    """
    if (
        tensor.dtype is dtype
        and tensor.is_cpu
        and tensor.numel() == numel
        and tensor.is_contiguous(memory_format=memory_format)
    ):
        return tensor.data_ptr()
    order = str(memory_format).removeprefix("torch.")
    raise InvalidBuffer(
        f"{name}: expected {numel} elements of {dtype} on cpu in {order}, got shape {list(tensor.shape)} of "
        f"{tensor.dtype} on {tensor.device} with strides {list(tensor.stride())}: give a tensor of that size, and "
        "convert the whole model by WorldModel.to()"
    )


def _build() -> Path:
    """Path of the library for this source, compiler and processor, built if it does not exist yet."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise FileNotFoundError("found no C compiler")
    parts = [compiler, *FLAGS, str(OPTIONAL_FLAGS), platform.machine(), _processor()]
    name = hashlib.sha256(SOURCE.read_bytes() + "\n".join(parts).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "worldgym"
    path = folder / f"native-{name}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            _compile(compiler, Path(temporary) / "native.so")
            (Path(temporary) / "native.so").replace(path)  # atomic: other processes may build at the same time
    return path


def _compile(compiler: str, target: Path) -> None:
    """Compile for this processor and with threads, as far as the compiler can."""
    for optional in OPTIONAL_FLAGS:
        command = [*shlex.split(compiler), *FLAGS, *optional, str(SOURCE), "-o", str(target), "-lm"]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=120)
        if done.returncode == 0:
            return
    errors = [line for line in done.stderr.splitlines() if "error" in line] or ["no reason given"]
    raise OSError(f"{compiler} cannot compile {SOURCE.name} ({errors[0]})")


def _processor() -> str:
    """Name and features of the processor. Machines may share a home folder and not run each other's code."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return platform.processor()
