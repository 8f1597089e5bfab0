r"""The paper's study of few-shot adaptation (section 4.4, figure 9a): with how few episodes does pre-training pay?

    python tests/benchmarks/study_few_shot.py
    python tests/benchmarks/study_few_shot.py --data data/bair --held-out data/bair-test --out outputs/bair \
        --initial thuml/ivideogpt-oxe-64-act-free --recipe bair-64-act-free --counts 100 1000 10000

For each of --counts so many episodes of --data train both parts of a world model twice, from the weights of --initial
and from new ones, with equally many updates. All are measured on the same held-out segments: the PSNR of imagined
frames. Writes few-shot.png and few-shot.json; runs are in the folder few-shot.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from studies import measured, open_study, pooled, positive, report_errors, study_parser
from tqdm import tqdm

from worldgym.data.episode import SUFFIX
from worldgym.data.recordings import Recordings
from worldgym.errors import DataError
from worldgym.reports.tables import number, table
from worldgym.world_model import WorldModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "few-shot"
STARTS = ("pre-trained", "from scratch")
BASELINES = ("not adapted", "last frame repeated")


def some_episodes(recordings: Recordings, count: int, folder: Path) -> Recordings:
    """A folder of links to some episodes, drawn at random; a smaller number of them is part of a larger one."""
    if count > len(recordings.episodes):
        raise DataError(
            f"{recordings.folder}: expected at least {count} episodes, got {len(recordings.episodes)}; record more, or "
            "give smaller --counts"
        )
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(recordings.episodes))[:count]
    for place, index in enumerate(order.tolist()):
        link = folder / f"{place:06d}{SUFFIX}"
        link.unlink(missing_ok=True)
        link.symlink_to(recordings.episodes[index].path.resolve())
    return Recordings(folder)


def plot(results: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, colour in zip(STARTS, ("tab:orange", "tab:blue"), strict=True):
        points = [(row["episodes"], row["psnr"]) for row in results["models"] if row["start"] == name]
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=name)
    for name, style in zip(BASELINES, (":", "--"), strict=True):
        if results[name] is not None:
            axes.axhline(results[name], color="gray", linestyle=style, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("episodes")
    axes.set_ylabel("PSNR of imagined frames (dB)")
    axes.legend(fontsize=8)
    return figure


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--counts", type=positive, nargs="+", default=[10, 100, 1000], help="episodes to adapt with")
    study = open_study(parser, new_look=True).with_sizes_of_checkpoint()
    recordings, segments = Recordings(study.data), study.segments()
    parts = {count: some_episodes(recordings, count, study.out / NAME / f"{count}") for count in study.options.counts}
    pre_trained = WorldModel.from_pretrained(study.initial).to(study.device)
    takes_them = pre_trained.config.action_dim in (0, recordings.action_dim)  # adapting can change the actions' length
    before = measured(pre_trained, segments)["greedy"]["psnr"] if takes_them else None
    rows = []
    for count, episodes in parts.items():
        for start, initial in zip(STARTS, (study.initial, None), strict=True):
            tqdm.write(f"{count} episodes, {start}", sys.stderr)
            folder = study.out / NAME / f"{count}-{start.replace(' ', '-')}"
            figures = measured(study.train(folder, episodes, initial), segments)
            psnr = pooled(figures["greedy"]["psnr"])
            rows.append({"episodes": count, "start": start, "psnr": psnr, "figures": figures})
    results = {
        "models": rows,
        "not adapted": None if before is None else pooled(before),
        "last frame repeated": pooled(rows[0]["figures"]["last_frame"]["psnr"]),
    }
    by_count = [[str(count), *(number(psnr_of(rows, count, start), ".2f") for start in STARTS)] for count in parts]
    print(table(["episodes", *(f"{start}, PSNR (dB)" for start in STARTS)], by_count))
    print(", ".join(f"{name}: {number(results[name], '.2f')}" for name in BASELINES))
    study.write(NAME, plot(results), results)


def psnr_of(rows: list[dict[str, Any]], count: int, start: str) -> float:
    return next(row["psnr"] for row in rows if (row["episodes"], row["start"]) == (count, start))


if __name__ == "__main__":
    report_errors(main)
