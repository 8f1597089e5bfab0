"""The figures of a protocol as a table and a plot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldgym.reports.tables import number, table
from worldgym.storage.files import atomic_json, atomic_write

METRICS = {"psnr": ("PSNR", ".2f"), "ssim": ("SSIM", ".4f"), "lpips": ("LPIPS", ".4f")}
REWARDS = {"reward_r2": "reward R²", "reward_rank_correlation": "reward rank correlation"}
NOT_MEASURED = "not measured"


def protocol_table(figures: Mapping[str, Any]) -> str:
    """A Markdown table by horizon, with the averages in its last row and the single figures below it.

    Args:
        figures: as :func:`worldgym.reports.protocol.run_protocol` returns them, with ``missing``, which says for
            ``lpips`` and ``fvd`` why they were not measured.
    """
    rewards = [name for name in REWARDS if name in figures]
    header = ["horizon", *(f"{title} best of {figures['samples']}" for title, _ in METRICS.values())]
    header += ["PSNR mean", "PSNR last frame repeated", *(REWARDS[name] for name in rewards)]
    best, rows = figures["best"], []
    for step in range(figures["horizon"]):
        row = [str(step + 1)]
        row += [number(best[name][step], spec) if name in best else "-" for name, (_, spec) in METRICS.items()]
        row += [number(figures[part]["psnr"][step], ".2f") for part in ("mean", "last_frame")]
        rows.append(row + [number(figures[name][step], ".3f") for name in rewards])
    average = figures["average"]
    last = [
        number(average["best"][name], spec) if name in best else NOT_MEASURED for name, (_, spec) in METRICS.items()
    ]
    last += [number(average[part]["psnr"], ".2f") for part in ("mean", "last_frame")]
    rows.append(["all", *last, *("" for _ in rewards)])
    notes = [f"{figures['videos']} videos, {figures['samples']} samples of each, {figures['context']} context frames"]
    notes.append(f"FVD (all samples): {number(figures['fvd'], '.1f') if 'fvd' in figures else NOT_MEASURED}")
    if "return_rank_correlation" in figures:
        notes.append(f"rank correlation of returns: {number(figures['return_rank_correlation'], '.3f')}")
    notes += [f"{name.upper()} was not measured: {why}" for name, why in figures.get("missing", {}).items()]
    return table(header, rows) + "\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"


def write_protocol(path: Path, figures: Mapping[str, Any], title: str) -> tuple[Path, Path, Path]:
    """Write figures as JSON, and as a table (.md) and a plot (.png) beside it.

    Args:
        path: of the JSON file.
        figures: see :func:`protocol_table`.
        title: of table and plot.

    Returns:
        The three files.

    Raises:
        StorageError: if a file cannot be written.
    """
    atomic_json(path, figures)
    written = path, path.with_suffix(".md"), path.with_suffix(".png")
    with atomic_write(written[1]) as temporary:
        temporary.write_text(f"# {title}\n\n{protocol_table(figures)}", encoding="utf-8")
    with atomic_write(written[2]) as temporary:
        _plot(temporary, figures, title)
    return written


def _plot(path: Path, figures: Mapping[str, Any], title: str) -> None:
    """Every metric by horizon: the best sample, the mean of all, the last context frame repeated; then the rewards."""
    from matplotlib.figure import Figure

    steps = range(1, figures["horizon"] + 1)
    metrics = [name for name in METRICS if name in figures["best"]]
    rewards = [name for name in REWARDS if name in figures]
    count = len(metrics) + bool(rewards)
    figure = Figure(figsize=(3.6 * count, 3.2), dpi=110, layout="constrained")
    diagrams = list(figure.subplots(1, count, squeeze=False).flat)
    labels = {"best": f"best of {figures['samples']}", "mean": "mean", "last_frame": "last frame repeated"}
    colours = {"best": "tab:orange", "mean": "tab:blue", "last_frame": "black"}
    for axes, name in zip(diagrams, metrics, strict=False):
        for part, label in labels.items():
            axes.plot(steps, figures[part][name], label=label, color=colours[part], marker=".", linewidth=1.2)
        axes.set_title(METRICS[name][0], fontsize=9)
    for name in rewards:
        values = [float("nan") if value is None else value for value in figures[name]]
        diagrams[-1].plot(steps, values, label=REWARDS[name], marker=".", linewidth=1.2)
    if rewards:
        diagrams[-1].set_title("rewards", fontsize=9)
        diagrams[-1].legend(fontsize=7, frameon=False)
    for axes in diagrams:
        axes.set_xlabel("frames after the context", fontsize=8)
        axes.tick_params(labelsize=7)
    diagrams[0].legend(fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=10, parse_math=False)
    figure.savefig(path, format="png")
