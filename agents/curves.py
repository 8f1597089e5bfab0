"""Learning curves: success and return against environment steps, of several runs, as a plot and as numbers."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldgym.errors import DataError
from worldgym.runs.folder import CONFIG, setting_differences
from worldgym.runs.log import METRICS, read_metrics
from worldgym.storage.files import atomic_json, atomic_write, read_json

Curve = dict[int, dict[str, float]]
"""Of one run: step -> ``success`` and ``return`` of the evaluation."""
Curves = dict[str, dict[str, dict[str, Any]]]
"""By task, then by method: ``steps``, ``runs``, and ``success`` and ``return`` as ``mean``, ``min`` and ``max``."""

FIGURES = ("success", "return")


def curves(folders: Sequence[Path]) -> Curves:
    """Average runs of the same task and method, at the steps at which all of them were evaluated.

    Averaged runs should differ in their seeds alone; a warning names other differences.

    Args:
        folders: of runs.

    Raises:
        DataError: for a folder without an agent's run, or a run without an evaluation.
    """
    grouped: dict[str, dict[str, dict[str, Curve]]] = {}
    first: dict[tuple[str, str], tuple[Path, Mapping[str, Any]]] = {}
    for folder in folders:
        about = _about(folder)
        task, method = str(about["task"]), str(about["method"])
        runs = grouped.setdefault(task, {}).setdefault(method, {})
        runs[str(folder)] = read_curve(folder)
        _compare(*first.setdefault((task, method), (folder, about)), folder, about)
    return {
        task: {method: _average(runs) for method, runs in sorted(methods.items())}
        for task, methods in sorted(grouped.items())
    }


def read_curve(folder: Path) -> Curve:
    """The evaluations of one run.

    Raises:
        DataError: if there are none.
    """
    curve = Curve()
    for line in read_metrics(folder):
        figures = {name: line[f"evaluation/{name}"] for name in FIGURES if f"evaluation/{name}" in line}
        if figures:
            curve[int(line["step"])] = figures
    if not curve:
        raise DataError(
            f"{folder / METRICS}: expected an evaluation, found none: let the run continue until its first one"
        )
    return curve


def _about(folder: Path) -> Mapping[str, Any]:
    path = folder / CONFIG
    about = read_json(path) if path.exists() else {}
    if not {"method", "task"} <= about.keys():
        raise DataError(
            f"{folder}: expected a run of `worldgym mbpo` or `worldgym drqv2`, but {path} names no method and task"
        )
    return about


def _compare(first: Path, first_about: Mapping[str, Any], folder: Path, about: Mapping[str, Any]) -> None:
    """Warn if two averaged runs differ in more than their seeds."""
    if differences := setting_differences(_seedless(first_about), _seedless(about)):
        warnings.warn(
            f"{folder} is averaged with {first}, but differs in more than the seed: {'; '.join(differences)}",
            stacklevel=3,
        )


def _seedless(about: Mapping[str, Any]) -> dict[str, Any]:
    training = {name: value for name, value in about.get("training", {}).items() if name != "seed"}
    return {**about, "training": training}


def _average(runs: Mapping[str, Curve]) -> dict[str, Any]:
    steps = sorted(set.intersection(*(set(curve) for curve in runs.values())))
    if not steps:
        raise DataError(f"expected runs evaluated at the same steps, found no common step: {', '.join(runs)}")
    average: dict[str, Any] = {"steps": steps}
    for figure in FIGURES:
        values = np.array([[curve[step][figure] for step in steps] for curve in runs.values()])
        parts = {"mean": values.mean(axis=0), "min": values.min(axis=0), "max": values.max(axis=0)}
        average[figure] = {name: part.tolist() for name, part in parts.items()}
    return average | {"runs": {name: _columns(curve) for name, curve in runs.items()}}


def _columns(curve: Curve) -> dict[str, Any]:
    steps = sorted(curve)
    return {"steps": steps} | {figure: [curve[step][figure] for step in steps] for figure in FIGURES}


def write_curves(found: Curves, picture: Path) -> list[Path]:
    """Plot the curves, one column for each task, and write their numbers beside the plot.

    Args:
        found: of :func:`curves`.
        picture: file of the plot.

    Returns:
        The paths of the plot and of the numbers.

    Raises:
        DataError: for a file name without a known picture suffix.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.5 + 4.5 * len(found), 6), layout="constrained")
    known = figure.canvas.get_supported_filetypes()
    if picture.suffix[1:].lower() not in known:
        raise DataError(f"{picture}: expected a file name that ends in .{', .'.join(sorted(known))}")
    axes = figure.subplots(2, len(found), squeeze=False, sharex="col")
    for column, (task, methods) in enumerate(found.items()):
        for row, name in enumerate(FIGURES):
            for method, curve in methods.items():
                label = f"{method} ({len(curve['runs'])})"
                (line,) = axes[row, column].plot(curve["steps"], curve[name]["mean"], label=label)
                band = curve[name]["min"], curve[name]["max"]
                axes[row, column].fill_between(curve["steps"], *band, alpha=0.2, color=line.get_color(), linewidth=0)
            axes[row, column].grid(alpha=0.3)
        axes[0, column].set(title=task, ylim=(-0.03, 1.03))
        axes[0, column].legend(fontsize="small")
        axes[1, column].set_xlabel("environment steps")
    for row, name in enumerate(FIGURES):
        axes[row, 0].set_ylabel(f"{name} (mean, min to max)")
    with atomic_write(picture) as aside:
        figure.savefig(aside, dpi=120)
    numbers = picture.with_suffix(".json")
    atomic_json(numbers, found)
    return [picture, numbers]
