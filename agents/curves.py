"""Learning curves: success and return against real steps, of several runs, as a picture and as numbers."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldgym.errors import DataError
from worldgym.storage.files import atomic_json, atomic_write, read_json
from worldgym.runs.folder import setting_differences
from worldgym.runs.log import METRICS

Curve = dict[int, dict[str, float]]
"""Of one run: the figures of each evaluation by its step."""
Curves = dict[str, dict[str, dict[str, Any]]]
"""By task, then by method: ``steps``, ``runs``, and ``success`` and ``return`` as ``mean``, ``min`` and ``max``."""

FIGURES = ("success", "return")


def curves(folders: Sequence[Path]) -> Curves:
    """Evaluations of runs, those of one task and method together, at the steps that all of them have reached.

    Runs that are joined should differ in their seeds alone; of others, a warning names what differs.

    Raises:
        DataError: for a folder that holds no run of an agent, or one without an evaluation.
    """
    grouped: dict[str, dict[str, dict[str, Curve]]] = {}
    first: dict[tuple[str, str], Path] = {}
    for folder in folders:
        about = _about(folder)
        task, method = str(about["task"]), str(about["method"])
        runs = grouped.setdefault(task, {}).setdefault(method, {})
        runs[str(folder)] = read_curve(folder)
        _compare(first.setdefault((task, method), folder), folder)
    return {
        task: {method: _joined(runs) for method, runs in sorted(methods.items())}
        for task, methods in sorted(grouped.items())
    }


def read_curve(folder: Path) -> Curve:
    """The evaluations of one run; :class:`DataError` where there are none."""
    path, found = folder / METRICS, Curve()
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]  # a run that was killed, or is under way, may end in half a line
    for line in map(json.loads, whole.splitlines()):
        figures = {name: line[f"evaluation/{name}"] for name in FIGURES if f"evaluation/{name}" in line}
        if figures:
            found[int(line["step"])] = figures
    if not found:
        raise DataError(f"{path} holds no evaluation: let the run go on until its first one")
    return found


def _about(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    about = read_json(path) if path.exists() else {}
    if not {"method", "task"} <= about.keys():
        raise DataError(
            f"{folder} holds no run of `worldgym mbpo` or `worldgym drqv2`: {path} names no method and task"
        )
    return about


def _compare(first: Path, folder: Path) -> None:
    """Warn where two runs that are joined are no two seeds of one."""
    if told := setting_differences(_seedless(_about(first)), _seedless(_about(folder))):
        warnings.warn(f"{folder} is joined with {first}, but is no other seed of it: {'; '.join(told)}", stacklevel=3)


def _seedless(about: Mapping[str, Any]) -> dict[str, Any]:
    training = {name: value for name, value in about.get("training", {}).items() if name != "seed"}
    return {**about, "training": training}


def _joined(runs: Mapping[str, Curve]) -> dict[str, Any]:
    steps = sorted(set.intersection(*(set(curve) for curve in runs.values())))
    if not steps:
        raise DataError(f"these runs were never evaluated at the same step: {', '.join(runs)}")
    joined: dict[str, Any] = {"steps": steps}
    for figure in FIGURES:
        values = np.array([[curve[step][figure] for step in steps] for curve in runs.values()])
        parts = {"mean": values.mean(axis=0), "min": values.min(axis=0), "max": values.max(axis=0)}
        joined[figure] = {name: part.tolist() for name, part in parts.items()}
    return joined | {"runs": {name: _columns(curve) for name, curve in runs.items()}}


def _columns(curve: Curve) -> dict[str, Any]:
    steps = sorted(curve)
    return {"steps": steps} | {figure: [curve[step][figure] for step in steps] for figure in FIGURES}


def write_curves(found: Curves, picture: Path) -> list[Path]:
    """Draw the curves, a column a task, and write their numbers beside the picture; both paths.

    Raises:
        DataError: for a name that does not end as a picture's does.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.5 + 4.5 * len(found), 6), layout="constrained")
    known = figure.canvas.get_supported_filetypes()
    if picture.suffix[1:].lower() not in known:
        raise DataError(f"{picture} is no picture's name: choose one that ends in .{', .'.join(sorted(known))}")
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
        axes[1, column].set_xlabel("real steps")
    for row, name in enumerate(FIGURES):
        axes[row, 0].set_ylabel(f"{name} (mean, min to max)")
    with atomic_write(picture) as aside:
        figure.savefig(aside, dpi=120)
    numbers = picture.with_suffix(".json")
    atomic_json(numbers, found)
    return [picture, numbers]
