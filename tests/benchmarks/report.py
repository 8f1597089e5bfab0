"""The page that a benchmark prints and saves: where and when, then tables."""

import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import transformers
from roofline import Ceilings

from worldgym.provenance import provenance

Row = dict[str, str]
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


def rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.0f}"


def provided(device: torch.device, load: float) -> dict[str, Any]:
    """Date, machine, versions; ``load``: processes that ran before."""
    flags: set[str] = set()
    with suppress(OSError):
        flags = set(Path("/proc/cpuinfo").read_text().split())
    return {
        **provenance(device),
        "command": shlex.join(["python", *sys.argv]),
        "processor has": [name for name in FEATURES if name in flags],
        "threads": torch.get_num_threads(),
        "load average before": f"{load:.1f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def table(rows: Sequence[Row]) -> str:
    """Markdown whose columns stand in line as text, too."""
    names = list(rows[0]) if rows else []
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
    lines = ["| " + " | ".join(row[name].ljust(widths[name]) for name in names) + " |" for row in rows]
    head = "| " + " | ".join(name.ljust(widths[name]) for name in names) + " |"
    return "\n".join([head, "|" + "|".join("-" * (widths[name] + 2) for name in names) + "|", *lines])


def report(facts: Mapping[str, Any], ceilings: Ceilings, parts: Sequence[Sequence[Row]]) -> str:
    """The whole page: where and when, the tables that are not empty, what the columns mean."""
    rates = [f"{str(dtype)[6:]} {rate / 1e9:.0f} GFLOP/s" for dtype, rate in ceilings.flops.items()]
    reads = [f"{size / 1e6:.0f} MB: {ceilings.bandwidth(size) / 1e9:.0f}" for size in sorted(ceilings.reads)]
    facts = {**facts, "ceilings": ", ".join(rates), "reads in GB/s, buffers of": ", ".join(reads)}
    lines = [f"- {name}: {', '.join(value) if isinstance(value, list) else value}" for name, value in facts.items()]
    notes = (
        "spread: of the median step over the best one, which counts. times: of re-reading over ours. roofline: steps "
        "a second where products and reads ran at the ceilings; of roofline: time over that. codes: the transformer, "
        "pixels: the rest of the step, each with its own ratio. memory(): what WorldModel.memory says of the state "
        "and its work; peak: by how much the process (on a GPU, what is allocated) grew until after its first step."
    )
    return "\n\n".join(["# Imagined steps a second", "\n".join(lines), *(table(rows) for rows in parts if rows), notes])
