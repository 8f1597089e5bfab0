"""``native.c`` compiled for this machine: what a CPU does several times faster than by PyTorch's operators.

The library is built once with the system's C compiler into the user's cache. Without a compiler, or with
``WORLDGYM_NATIVE=0`` in the environment, :func:`library` is None and the plain paths run.
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

SOURCE = Path(__file__).with_name("native.c")
FLAGS = ("-O3", "-fPIC", "-shared", "-Wno-psabi")
WISHES = (("-march=native", "-fopenmp"), ("-march=native",), ("-fopenmp",), ())  # the first that a compiler knows
SWITCH = "WORLDGYM_NATIVE"

DTYPES = (torch.float32, torch.bfloat16)
Pointer = ctypes.c_void_p


def switched_off() -> bool:
    """Whether the user wants plain paths only."""
    return os.environ.get(SWITCH) == "0"


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled library; None without one, which is said once on stderr."""
    if switched_off():
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
    path = folder / f"native-{name}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            _compile(compiler, Path(aside) / "native.so")
            (Path(aside) / "native.so").replace(path)  # whole or not at all, whoever else builds it now
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
