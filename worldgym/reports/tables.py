"""Figures as Markdown tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from worldgym.data.summary import behaviours

PREDICTORS = {
    "sampled": "sampled",
    "greedy": "greedy",
    "reconstruction": "tokenizer alone",
    "last_frame": "last frame repeated",
}
"""The predictors of :func:`worldgym.reports.evaluation.evaluate` and their names in tables."""
DATA_PARTS = {"trained_on": "training", "tokenizer_trained_on": "tokenizer alone", "held_out": "held out"}
"""The summaries of recordings in a checkpoint's ``training_data`` and their names in tables."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a Markdown table.

    Args:
        header: names of the columns.
        rows: the cells of each row.

    Returns:
        The table; its columns are padded to equal width, so that it can be read in a terminal too.
    """
    lines = [[_cell(text) for text in line] for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def number(value: float | None, spec: str) -> str:
    """Format a figure.

    Args:
        value: the figure.
        spec: how to format it, such as ``".1f"``.

    Returns:
        The text; ``-`` for a figure that is not finite (the PSNR of equal frames, the R² of constant rewards) and for
        None, which replaces it in JSON files.
    """
    return "-" if value is None or not math.isfinite(value) else format(value, spec)


def horizon_table(figures: Mapping[str, Any]) -> str:
    """PSNR and reward R² of every predictor by horizon.

    Args:
        figures: of all tasks or of one, as :func:`worldgym.reports.evaluation.evaluate` returns them.

    Returns:
        A Markdown table.
    """
    names = [name for name in PREDICTORS if name in figures]
    scored = [name for name in names if "reward_r2" in figures[name]]
    header = ["horizon", *(f"PSNR {PREDICTORS[name]}" for name in names), *(f"reward R² {name}" for name in scored)]
    rows = []
    for step in range(len(figures["last_frame"]["psnr"])):
        psnrs = [number(figures[name]["psnr"][step], ".1f") for name in names]
        rows.append([str(step + 1), *psnrs, *(number(figures[name]["reward_r2"][step], ".2f") for name in scored)])
    return table(header, rows)


def task_table(by_task: Mapping[str, Mapping[str, Any]]) -> str:
    """PSNR of the sampled frames, its difference to the last frame's, and reward R² at a few horizons, for each task.

    Args:
        by_task: figures of ``all`` and of each task, as :func:`worldgym.reports.evaluation.evaluate` returns them.

    Returns:
        A Markdown table with one row for each task and one for all.
    """
    length = len(by_task["all"]["last_frame"]["psnr"])
    steps = sorted({step for step in (1, 5, 10) if step <= length} | {length})
    header = ["task", "segments"]
    for step in steps:
        header += [f"PSNR at {step}", f"over last frame at {step}", f"reward R² at {step}"]
    rows = []
    for task in (*(task for task in by_task if task != "all"), "all"):
        figures = by_task[task]
        rewards = figures["sampled"].get("reward_r2", [None] * length)
        row = [task, str(figures["segments"])]
        for index in (step - 1 for step in steps):
            psnr, still = (figures[name]["psnr"][index] for name in ("sampled", "last_frame"))
            gain = None if psnr is None or still is None else psnr - still
            row += [number(psnr, ".1f"), number(gain, "+.1f"), number(rewards[index], ".2f")]
        rows.append(row)
    return table(header, rows)


def data_table(training_data: Mapping[str, Any]) -> str:
    """Number of episodes by task and behaviour.

    Args:
        training_data: summaries of recordings, under the names in :data:`DATA_PARTS`.

    Returns:
        A Markdown table with one row for each task.
    """
    parts = {name: training_data[key] for key, name in DATA_PARTS.items() if key in training_data}
    columns = [(name, behaviour) for name, part in parts.items() for behaviour in behaviours(part)]
    header = ["episodes", *(f"{name}: {behaviour}" for name, behaviour in columns)]
    rows = []
    for task in sorted({task for part in parts.values() for task in part["episodes"]}):
        counts = (parts[name]["episodes"].get(task, {}).get(behaviour, 0) for name, behaviour in columns)
        rows.append([task, *map(str, counts)])
    return table(header, rows)


def _cell(text: str) -> str:
    """Text that does not break a table: names of tasks may hold any characters."""
    return " ".join(text.split()).replace("|", r"\|")
