"""The trust report as one HTML page, whose plots are inside it."""

import base64
import html
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from worldgym.reports.tables import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}img{max-width:100%}"
STYLE += "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:right}"


def render_page(name: str, figures: Mapping[str, Any]) -> str:
    """Make the page.

    Args:
        name: of the checkpoint.
        figures: what ``worldgym evaluate`` measured, with ``trust`` (task -> ``ranking`` and ``optimism``) or with
            ``missing``, a sentence that says why there is none.

    Returns:
        An HTML document that needs no other file.
    """
    by_task = figures["by_task"]
    parts = [
        f"<h1>{html.escape(name)}: how far to trust it</h1>",
        f"<p>Measured on {html.escape(figures['date'])} on {html.escape(figures['machine'])}, at commit "
        f"{html.escape(figures['commit'])}.</p>",
        "<h2>Imagined frames</h2><p>PSNR of the pooled squared error by horizon, over held-out segments.</p>",
        _image(_plot_lines(by_task["all"], "psnr", "PSNR, dB")),
        "<h2>Imagined rewards</h2><p>R² by horizon.</p>",
        _image(_plot_tasks(by_task, "reward_r2", "R²")),
        "<h2>Uncertainty and events</h2>",
        _table(["figure", "value"], _event_rows(figures)),
    ]
    if "trust" in figures:
        parts += _trust_parts(figures["trust"])
    else:
        parts.append(f"<h2>Policies in both worlds</h2><p>{html.escape(figures['missing'])}</p>")
    body = "\n".join(parts)
    title = html.escape(name)
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _trust_parts(trust: Mapping[str, Any]) -> list[str]:
    rows = []
    for task, found in trust.items():
        intervals = (_interval(found["ranking"][name]) for name in ("spearman", "pearson"))
        rows.append([task, *intervals, *_gap(found["optimism"])])
    header = ["task", "Spearman", "Pearson", "promised", "earned", "promised - earned"]
    return [
        "<h2>Policies in both worlds</h2>",
        "<p>Every point is a policy: its mean return in the simulator and in the learned environment, from the same "
        "first frames under the same actions. The line is equality.</p>",
        _image(_plot_policies(trust)),
        "<p>Rank correlation over policies with 95 % bootstrap intervals; and the optimism: the best of many action "
        "sequences by imagined return, what it was promised, and what it earned in the simulator.</p>",
        _table(header, rows),
    ]


def _interval(values: list[float]) -> str:
    value, low, high = (number(item, ".2f") for item in values)
    return f"{value} [{low}, {high}]"


def _gap(optimism: Mapping[str, list[float]]) -> list[str]:
    promised, real = float(np.mean(optimism["promised"])), float(np.mean(optimism["real"]))
    return [f"{promised:.0f}", f"{real:.0f}", f"{promised - real:+.0f}"]


def _event_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    if "uncertainty_auroc" in (sampled := figures["by_task"]["all"]["sampled"]):
        rows.append(["AUROC of uncertainty for the worst tenth of frames", number(sampled["uncertainty_auroc"], ".2f")])
    return rows + [[name.replace("_", " "), number(value, ".2f")] for name, value in figures["events"].items()]


def _plot_lines(found: Mapping[str, Any], key: str, label: str) -> "Figure":
    figure, (axes,) = _figure(1)
    names = {"sampled": "imagined", "reconstruction": "tokenizer alone", "last_frame": "last frame, repeated"}
    for name, title in names.items():
        values = found[name][key]
        axes.plot(np.arange(1, len(values) + 1), values, marker="o", label=title)
    axes.set_xlabel("horizon, steps")
    axes.set_ylabel(label)
    axes.legend()
    return figure


def _plot_tasks(by_task: Mapping[str, Any], key: str, label: str) -> "Figure":
    figure, (axes,) = _figure(1)
    for task, found in by_task.items():
        values = found["sampled"].get(key)
        if values is not None:
            numbers = [np.nan if value is None else value for value in values]
            axes.plot(np.arange(1, len(values) + 1), numbers, marker="o", label=task)
    axes.set_xlabel("horizon, steps")
    axes.set_ylabel(label)
    axes.legend()
    return figure


def _plot_policies(trust: Mapping[str, Any]) -> "Figure":
    figure, diagrams = _figure(len(trust))
    for axes, (task, found) in zip(diagrams, trust.items(), strict=True):
        policies = found["ranking"]["policies"].values()
        real, imagined = ([policy[world] for policy in policies] for world in ("real", "imagined"))
        most = max([*real, *imagined])
        axes.plot([0, most], [0, most], color="grey", linewidth=1)
        axes.scatter(real, imagined, s=18)
        axes.set_title(task, fontsize=9, parse_math=False)
        axes.set_xlabel("return in the simulator")
        axes.set_ylabel("imagined return")
    return figure


def _figure(count: int) -> tuple["Figure", list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(4 * columns if count > 1 else 7, 3.4 * rows), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)[:count]


def _image(figure: "Figure") -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return f'<p><img alt="plot" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"></p>'


def _table(header: list[str], rows: list[list[str]]) -> str:
    cells = ["".join(f"<th>{html.escape(cell)}</th>" for cell in header)]
    cells += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
