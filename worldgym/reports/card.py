"""The model card of a checkpoint: everything in it is read from the checkpoint's configuration."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from worldgym.config import WorldModelConfig, from_dict, to_dict
from worldgym.data.summary import behaviours, first_seed
from worldgym.errors import CheckpointError, ConfigError
from worldgym.reports.evaluation import Figures
from worldgym.storage.files import atomic_json, atomic_write, read_json
from worldgym.pretrained import CONFIG, TOKENIZER, TRANSFORMER

PREDICTORS = {
    "sampled": "sampled",
    "greedy": "greedy",
    "reconstruction": "tokenizer alone",
    "last_frame": "last frame repeated",
}

_CARD = """\
---
license: mit
library_name: worldgym
tags: [world-model, video-prediction, reinforcement-learning, ivideogpt]
---

# {name}

A learned simulator: an iVideoGPT world model (tokenizer {tokenizer_parameters:,} parameters, transformer and reward
head {transformer_parameters:,}) that imagines {resolution}x{resolution} frames and rewards of {environment}, one step
({frame_skip} simulator steps) at a time, from {context_length} real frames and the actions taken. Tasks: {tasks}.

```python
import gymnasium as gym
import worldgym

env = gym.make("WorldModel-MetaWorld-v0", checkpoint="{name}")
obs, info = env.reset(seed=0)
obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
```

## Figures on held-out data

{segments} segments of held-out episodes, from their first {first_steps} steps. PSNR in dB of the squared error pooled
over all segments, so that frames in which nothing moves do not dominate; R² of the rewards. *Sampled* is what the
environments do (temperature {temperature}, top-k {top_k}), *greedy* takes the likeliest token, *tokenizer alone*
encodes and decodes the real frame (a bound for both), *last frame repeated* is the trivial predictor.

{horizon_table}

Task by task, sampled:

{task_table}

Perplexity of the codes on the held-out frames: context {context_perplexity:.0f} of {context_codes}, dynamics
{dynamics_perplexity:.0f} of {dynamics_codes}.

Measured on {date} on {machine}, at commit {commit}, by `{command}`.

## Trained on

{data_table}

Recorded from {environment}, look `{look}`, frame skip {frame_skip}; {steps:,} steps. The held-out episodes have seeds
of their own. Some of them are the start states in `start_states/`.

## Limits

- It has seen one camera, one robot and these tasks: frames from elsewhere are not refused, but imagined badly.
- Errors add up. The figures end at horizon {horizon}; `info["uncertainty"]` rises where the model is unsure, and
  `info["reanchored"]` tells when it began to go on from its own frames.
- Small or thin objects, and contacts that decide whether an object moves, are what it gets wrong first. With them go
  the rewards: a success imagined is not a success.
- It never ends an episode early, and knows no goal but that of the task.
- Behaviour unlike that in the table above is extrapolation.

## Train it again

`recipe.json` holds every setting.

```
{commands}
```

## Licence

MIT, the weights as the code.
"""


def write_figures(folder: Path, config: WorldModelConfig, figures: Figures) -> None:
    """Put measured figures into the ``config.json`` and the card, ``README.md``, of a checkpoint in our own layout."""
    measured = dataclasses.replace(config, figures=figures)
    card = render_card(folder.resolve().name, measured, parameters(folder))
    atomic_json(folder / CONFIG, to_dict(measured))
    with atomic_write(folder / "README.md") as aside:
        aside.write_text(card)


def parameters(folder: Path) -> dict[str, int]:
    """How many weights ``tokenizer`` and ``transformer`` of a checkpoint in our own layout have."""
    return {name: _count(folder / file) for name, file in (("tokenizer", TOKENIZER), ("transformer", TRANSFORMER))}


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def checkpoint_table(folders: Iterable[Path]) -> str:
    """Name, parameters, size, resolution and tasks of checkpoints in our own layout, as a Markdown table."""
    rows = []
    for folder in folders:
        config = from_dict(WorldModelConfig, read_json(folder / CONFIG), str(folder / CONFIG))
        counts = (f"{count / 1e6:.1f} M" for count in parameters(folder).values())
        row = [folder.name, *counts, f"{size(folder) / 1e6:.1f} MB", str(config.resolution), ", ".join(config.tasks)]
        rows.append(row)
    return table(["name", "tokenizer", "transformer", "size", "pixels", "tasks"], rows)


def _count(path: Path) -> int:
    try:
        with safe_open(path, "np") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); fetch the checkpoint again") from error


def render_card(name: str, config: WorldModelConfig, counts: Mapping[str, int]) -> str:
    """The card as Markdown; ``counts`` are the :func:`parameters`.

    Raises:
        ConfigError: if the notes or figures in ``config`` lack something that the card tells.
    """
    try:
        return _rendered(name, config, counts)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"the card of {name} needs training_data as `worldgym export` notes it and figures as `worldgym evaluate` "
            f"measures them, and cannot be made from what {CONFIG} holds: {error!r}"
        ) from error


def _rendered(name: str, config: WorldModelConfig, counts: Mapping[str, int]) -> str:
    figures, trained, layout = config.figures, config.training_data["trained_on"], config.layout
    return _CARD.format(
        name=name,
        tokenizer_parameters=counts["tokenizer"],
        transformer_parameters=counts["transformer"],
        resolution=config.resolution,
        context_length=config.context_length,
        context_codes=layout.context_codes,
        dynamics_codes=layout.dynamics_codes,
        tasks=", ".join(config.tasks),
        temperature=config.sampling.temperature,
        top_k=config.sampling.top_k,
        environment=trained["environment"],
        look=trained["look"],
        frame_skip=trained["frame_skip"],
        steps=trained["steps"],
        segments=figures["by_task"]["all"]["segments"],
        context_perplexity=figures["perplexity"]["context"],
        dynamics_perplexity=figures["perplexity"]["dynamics"],
        horizon_table=horizon_table(figures["by_task"]["all"]),
        task_table=task_table(figures["by_task"]),
        data_table=_data_table(config.training_data),
        commands="\n".join(training_commands(name, config)),
        **{key: figures[key] for key in ("date", "machine", "commit", "command", "first_steps", "horizon")},
    )


def horizon_table(figures: Figures) -> str:
    """PSNR and reward R² of every predictor by horizon, as a Markdown table."""
    names = [name for name in PREDICTORS if name in figures]
    scored = [name for name in names if "reward_r2" in figures[name]]
    header = ["horizon", *(f"PSNR {PREDICTORS[name]}" for name in names), *(f"reward R² {name}" for name in scored)]
    rows = []
    for step in range(len(figures["last_frame"]["psnr"])):
        psnrs = [f"{figures[name]['psnr'][step]:.1f}" for name in names]
        rows.append([str(step + 1), *psnrs, *(f"{figures[name]['reward_r2'][step]:.2f}" for name in scored)])
    return table(header, rows)


def task_table(by_task: Mapping[str, Figures]) -> str:
    """PSNR sampled, its gain over the last frame and reward R² at a few horizons, a task a line, as Markdown."""
    length = len(by_task["all"]["last_frame"]["psnr"])
    steps = sorted({step for step in (1, 5, 10) if step <= length} | {length})
    header = ["task", "segments"]
    for step in steps:
        header += [f"PSNR at {step}", f"over last frame at {step}", f"reward R² at {step}"]
    rows = []
    for task in (*(task for task in by_task if task != "all"), "all"):
        figures, row = by_task[task], [task, str(by_task[task]["segments"])]
        for step in steps:
            made, still = (figures[name]["psnr"][step - 1] for name in ("sampled", "last_frame"))
            reward = figures["sampled"].get("reward_r2")
            row += [f"{made:.1f}", f"{made - still:+.1f}", f"{reward[step - 1]:.2f}" if reward else "-"]
        rows.append(row)
    return table(header, rows)


def _data_table(training_data: Mapping[str, Any]) -> str:
    names = {"trained_on": "training", "tokenizer_trained_on": "tokenizer alone", "held_out": "held out"}
    parts = {name: training_data[key] for key, name in names.items() if key in training_data}
    columns = [(name, behaviour) for name, part in parts.items() for behaviour in behaviours(part)]
    header = ["episodes", *(f"{name}: {behaviour}" for name, behaviour in columns)]
    rows = []
    for task in sorted({task for part in parts.values() for task in part["episodes"]}):
        counts = (parts[name]["episodes"].get(task, {}).get(behaviour, 0) for name, behaviour in columns)
        rows.append([task, *map(str, counts)])
    return table(header, rows)


def training_commands(name: str, config: WorldModelConfig) -> Iterable[str]:
    """What makes the checkpoint again, from its recipe and its summaries of recordings."""
    folders = {"trained_on": "data/train", "tokenizer_trained_on": "data/tokenizer", "held_out": "data/held-out"}
    folders = {key: folder for key, folder in folders.items() if key in config.training_data}
    for key, folder in folders.items():
        yield from _collect_commands(folder, config.training_data[key])
    data, held_out = folders["trained_on"], folders["held_out"]
    for part, options in (("tokenizer", ""), ("transformer", "--tokenizer runs/tokenizer ")):
        recordings = f"--data {folders.get(f'{part}_trained_on', data)} --held-out {held_out}"
        yield f"worldgym train {part} --recipe {name} {options}{recordings} --out runs/{part}"
    runs = "--tokenizer runs/tokenizer --transformer runs/transformer"
    sampling = f"--temperature {config.sampling.temperature} --top-k {config.sampling.top_k}"
    yield f"worldgym export {runs} --held-out {held_out} {sampling} --out checkpoints/{name}"
    yield f"worldgym evaluate --checkpoint checkpoints/{name} --data {held_out} --write-card"


def _collect_commands(folder: str, summary: Mapping[str, Any]) -> Iterable[str]:
    """One command for all tasks that were recorded alike."""
    alike: dict[tuple[tuple[str, int], ...], list[str]] = {}
    for task, counts in summary["episodes"].items():
        alike.setdefault(tuple(sorted(counts.items())), []).append(task)
    seed = first_seed(summary)
    for counts, tasks in alike.items():
        episodes = ",".join(f"{behaviour}={count}" for behaviour, count in counts)
        options = f"--tasks {' '.join(tasks)} --episodes {episodes} --seed {seed} --look {summary['look']}"
        yield f"worldgym collect --out {folder} {options}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns line up in a terminal too."""
    body = [list(row) for row in rows]
    widths = [max(len(row[column]) for row in (header, *body)) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *body]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
