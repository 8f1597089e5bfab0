"""Devices by name, and their free memory."""

from pathlib import Path

import torch

from worldgym.errors import ConfigError


def checked_device(name: str | torch.device | None = None) -> torch.device:
    """The device of a name.

    Args:
        name: such as ``cpu`` or ``cuda:1``; None is the GPU if there is one, else the CPU.

    Raises:
        ConfigError: for an unknown name, or a device that cannot be used here.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name is None else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"device {str(name)!r} cannot be used here: {reason}; give 'cpu', or 'cuda' if PyTorch finds a GPU"
        ) from error
    return device


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device; None if unknown.

    On a CPU: the system's available memory, or what is left of the control group's limit if that is less. On a GPU:
    free memory, and memory that PyTorch has reserved but does not use.
    """
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserved
    limits = [_meminfo(), _left_in_control_group()]
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None


def _left_in_control_group(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        limit, used = ((folder / name).read_text(encoding="utf-8").strip() for name in ("memory.max", "memory.current"))
        if limit == "max":
            return None
        lines = [line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines()]
        cached = sum(int(count) for name, count in lines if name in ("active_file", "inactive_file"))
        return int(limit) - int(used) + cached  # cached files count as used, but can be dropped
    except (OSError, ValueError):
        return None
