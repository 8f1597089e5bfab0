"""How figures were measured: date, machine, commit and command."""

import datetime
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch


def provenance(device: torch.device, ray: str | None = None) -> dict[str, str]:
    """Describe this process for files that hold figures.

    Args:
        device: where the figures are computed.
        ray: address of the cluster whose machines compute them, if any.

    Returns:
        ``date``, ``machine``, ``commit`` and ``command``.
    """
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine(device) if ray is None else f"Ray cluster {ray}",
        "commit": commit(),
        "command": command(),
    }


def machine(device: torch.device) -> str:
    """The name of a device, such as ``AMD EPYC 7B13, 2 of 8 cores``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def commit() -> str:
    """The commit of this repository, with ``-dirty`` if files were changed; ``unknown`` outside a checkout."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=Path(__file__).resolve().parent,
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def command() -> str:
    """The command line of this process."""
    return shlex.join(["worldgym", *sys.argv[1:]])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
