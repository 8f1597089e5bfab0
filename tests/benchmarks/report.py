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

from worldgym.reports.provenance import provenance

Row = dict[str, str]
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")

NOTES = """\
- steps/s, re-reading, roofline: imagined steps a second of all rows together; spread: the median step over the best
  one, which counts; times: how much longer re-reading takes; of roofline: how much longer a step takes than at the
  ceilings.
- codes: the transformer's part; pixels: the rest of the step; in brackets how much longer than at the ceilings.
- memory(): what WorldModel.memory says of a state and its work; peak: by how much the process (on a GPU: what is
  allocated there) grew from before the start of the batch until after its first step; re-reading peak: by how much more
  in that loop. All in MB.
- Environments: whole steps through Gymnasium, new starts included."""


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


def page(facts: Mapping[str, Any], ceilings: Ceilings, parts: Sequence[Sequence[Row]]) -> str:
    """Where and when, the tables that are not empty, what their columns mean."""
    flops = [f"{str(dtype)[6:]} {value / 1e9:.0f} GFLOP/s" for dtype, value in ceilings.flops.items()]
    sizes = sorted(ceilings.reads)
    some = sorted({*sizes[:: max(1, len(sizes) // 5)], sizes[-1]})
    reads = [f"{size / 1e6:.0f} MB: {ceilings.bandwidth(size) / 1e9:.0f}" for size in some]
    facts = {**facts, "ceilings": ", ".join(flops), "reads in GB/s, of buffers of": ", ".join(reads)}
    lines = [f"- {name}: {', '.join(value) if isinstance(value, list) else value}" for name, value in facts.items()]
    return "\n\n".join(["# Imagined steps a second", "\n".join(lines), *(table(rows) for rows in parts if rows), NOTES])
