"""The commands that train a checkpoint again."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from worldgym.config import WorldModelConfig
from worldgym.data.summary import first_seed, has_consecutive_seeds

FOLDERS = {"trained_on": "data/train", "tokenizer_trained_on": "data/tokenizer", "held_out": "data/held-out"}
"""The summaries of recordings in a checkpoint's ``training_data``, and the folder of each in the commands."""

POLICY = "policy"
"""The behaviour of episodes that ``worldgym collect --policy`` recorded."""


def training_commands(name: str, config: WorldModelConfig) -> Iterator[str]:
    """The commands that record the data of a checkpoint, train it, export it and measure it.

    Args:
        name: name of the checkpoint, which is also the name of its recipe.
        config: its configuration, with summaries of recordings in ``training_data``.

    Yields:
        One command line at a time; a comment where recordings cannot be made again by ``worldgym collect``.
    """
    folders = {key: folder for key, folder in FOLDERS.items() if key in config.training_data}
    for key, folder in folders.items():
        yield from _collect_commands(folder, config.training_data[key])
    initial = ""
    if "earlier" in config.training_data:
        initial = "--initial EARLIER "
        yield "# EARLIER: the checkpoint whose weights this training started from; without the option it starts anew"
    data, held_out = folders["trained_on"], folders["held_out"]
    for part, options in (("tokenizer", ""), ("transformer", "--tokenizer runs/tokenizer ")):
        recordings = f"--data {folders.get(f'{part}_trained_on', data)} --held-out {held_out}"
        yield f"worldgym train {part} --recipe {name} {initial}{options}{recordings} --out runs/{part}"
    runs = "--tokenizer runs/tokenizer --transformer runs/transformer"
    sampling = f"--temperature {config.sampling.temperature} --top-k {config.sampling.top_k}"
    yield f"worldgym export {runs} --held-out {held_out} {sampling} --out checkpoints/{name}"
    shown = config.figures.get("shown")
    measure = "" if shown is None else f"--shown {shown} "
    yield f"worldgym evaluate --checkpoint checkpoints/{name} --data {held_out} {measure}--write-card"


def _collect_commands(folder: str, summary: Mapping[str, Any]) -> Iterator[str]:
    """One command for all tasks with equal numbers of episodes."""
    if not has_consecutive_seeds(summary):
        yield f"# {folder}: recordings of {summary['environment']}, selected; config.json lists their seeds"
        return
    tasks_by_counts: dict[tuple[tuple[str, int], ...], list[str]] = {}
    for task, counts in summary["episodes"].items():
        tasks_by_counts.setdefault(tuple(sorted(counts.items())), []).append(task)
    for counts, tasks in tasks_by_counts.items():
        command = f"worldgym collect --out {folder} --tasks {shlex.join(tasks)}"
        options = f"--seed {first_seed(summary)} --look {summary['look']}"
        episodes = ",".join(f"{behaviour}={count}" for behaviour, count in counts if behaviour != POLICY)
        if episodes:
            yield f"{command} --episodes {episodes} {options}"
        if acted := dict(counts).get(POLICY):
            yield "# POLICY: who acted in the episodes that are counted as policy; see worldgym collect --help"
            yield f"{command} --episodes {acted} --policy POLICY {options}"
