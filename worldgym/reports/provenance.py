"""Where a figure comes from: machine, commit, date, command."""

import datetime
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch


def provenance(device: torch.device) -> dict[str, str]:
    """``date``, ``machine``, ``commit`` and ``command`` of this process, for files that hold figures."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine(device),
        "commit": commit(),
        "command": command(),
    }


def machine(device: torch.device) -> str:
    """The device in words, such as ``AMD EPYC 7B13, 2 cores``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def commit() -> str:
    """The repository's commit, with ``-dirty`` where files differ from it; ``unknown`` outside a checkout."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def command() -> str:
    """The command line, as it would be typed again."""
    return shlex.join(["worldgym", *sys.argv[1:]])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
