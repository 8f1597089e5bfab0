"""The model card of a checkpoint. Everything in it is read from the checkpoint's configuration."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

from worldgym.config import WorldModelConfig, to_dict
from worldgym.errors import ConfigError
from worldgym.pretrained import CONFIG, TOKENIZER, TRANSFORMER, read_config
from worldgym.reports.commands import training_commands
from worldgym.reports.tables import data_table, horizon_table, number, table, task_table
from worldgym.storage.files import atomic_folder, atomic_json
from worldgym.storage.tensors import open_tensors

CARD = "README.md"
ANY_CHECKPOINT = "WorldModel-v0"
"""Id of the learned environment that takes any checkpoint."""

EXPECTED_ERROR = "the root mean squared error that the model expects of the frame"
ENTROPY = "the entropy of the predicted tokens"
SLIDES = "then the context stays and the older half of the imagined frames leaves."
STARTS_ANEW = "then the model starts again from its own frames."
TERMINATES = "It terminates episodes at random, with the probability that it predicts at each step."
NEVER_TERMINATES = "It never terminates an episode; episodes end by their time limit."
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

env = gym.make("{env_id}", checkpoint="{name}")
obs, info = env.reset(seed=0)
obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
```

## Figures on held-out data

{segments} segments of held-out episodes, from their first {first_steps} steps{shown}. PSNR in dB of the squared
error pooled over all segments, so that frames in which nothing moves do not dominate; R² of the rewards; `-` where a
figure is not finite. *Sampled* is what the environments do (temperature {temperature}, top-k {top_k}), *greedy* takes
the most likely token, *tokenizer alone* encodes and decodes the real frame (an upper bound for both), *last frame
repeated* is the trivial predictor.

{horizon_table}

Task by task, sampled:

{task_table}

Perplexity of the codes on the held-out frames: context {context_perplexity} of {context_codes}, dynamics
{dynamics_perplexity} of {dynamics_codes}.{events}{cautions}

Measured on {date} on {machine}, at commit {commit}, by `{command}`.

## Trained on

{data_table}

Recorded from {environment}, look `{look}`, frame skip {frame_skip}; {steps:,} steps. No held-out episode was used in
training. Some of them are the start states in `start_states/`.{earlier}

## Limits

- It was trained on the tasks above, drawn in one way. Other frames are not refused, but predicted badly.
- Errors accumulate. The figures end at horizon {horizon}. `info["uncertainty"]` is {uncertainty};
  how well it tells bad frames is measured above. `info["reanchored"]` is true at steps before which the position window
  was full; {window}
- Small objects, thin objects and contacts between objects are predicted worst, and with them the rewards: an imagined
  success need not be a success in the simulator.
- {termination}
- Behaviour that differs from the behaviours in the table above is extrapolation.

## Train it again

`recipe.json` holds every setting.

```
{commands}
```

## Licence

MIT, for the weights and the code.
"""


def write_figures(folder: Path, config: WorldModelConfig, figures: Mapping[str, Any]) -> None:
    """Write measured figures into the ``config.json`` and the card of a checkpoint: both files, or neither.

    Args:
        folder: a checkpoint in our own layout.
        config: its configuration.
        figures: what ``worldgym evaluate`` measured.

    Raises:
        ConfigError: if the configuration lacks something that the card shows.
        StorageError: if one of the files cannot be written; both are as they were.
    """
    measured = dataclasses.replace(config, figures=figures)
    card = render_card(folder.resolve().name, measured, parameters(folder))
    with atomic_folder(folder) as temporary:
        atomic_json(temporary / CONFIG, to_dict(measured))
        (temporary / CARD).write_text(card, encoding="utf-8", errors="replace")


def render_card(name: str, config: WorldModelConfig, counts: Mapping[str, int]) -> str:
    """Make the card.

    Args:
        name: name of the checkpoint.
        config: its configuration, with training data and figures.
        counts: its numbers of parameters, see :func:`parameters`.

    Returns:
        The card as Markdown.

    Raises:
        ConfigError: if the configuration lacks something that the card shows.
    """
    try:
        return _render(name, config, counts)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"expected training_data as `worldgym export` writes it and figures as `worldgym evaluate` measures them "
            f"in the {CONFIG} of {name}, got others ({error!r}); run both commands again"
        ) from error


def _render(name: str, config: WorldModelConfig, counts: Mapping[str, int]) -> str:
    figures, trained, layout = config.figures, config.training_data["trained_on"], config.layout
    return _CARD.format(
        name=name,
        env_id=learned_env_id(trained["environment"]),
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
        context_perplexity=number(figures["perplexity"]["context"], ".0f"),
        dynamics_perplexity=number(figures["perplexity"]["dynamics"], ".0f"),
        horizon_table=horizon_table(figures["by_task"]["all"]),
        task_table=task_table(figures["by_task"]),
        data_table=data_table(config.training_data),
        commands="\n".join(training_commands(name, config)),
        uncertainty=EXPECTED_ERROR if config.frame_error else ENTROPY,
        shown=_shown(figures.get("shown")),
        events=_events(figures),
        cautions=_cautions(figures.get("cautions", ())),
        earlier=_earlier(config.training_data.get("earlier", ())),
        window=SLIDES if config.slides else STARTS_ANEW,
        termination=TERMINATES if config.termination else NEVER_TERMINATES,
        **{key: figures[key] for key in ("date", "machine", "commit", "command", "first_steps", "horizon")},
    )


def _shown(frames: int | None) -> str:
    """What the model is shown of a segment, where that is more than its context."""
    if frames is None:
        return ""
    return f", each imagined from the episode's first frame and up to {frames} real frames before the segment"


def _events(figures: Mapping[str, Any]) -> str:
    """A paragraph on uncertainty and predicted events; empty without figures of them."""
    found = {}
    if "uncertainty_auroc" in (sampled := figures["by_task"]["all"]["sampled"]):
        found["AUROC of the uncertainty for the tenth of frames with the largest errors"] = sampled["uncertainty_auroc"]
    found |= {name.replace("_", " "): value for name, value in figures.get("events", {}).items()}
    parts = ", ".join(f"{name} {number(value, '.2f')}" for name, value in found.items())
    return f"\n\nSampled, over all horizons: {parts}." if parts else ""


def _cautions(sentences: Sequence[str]) -> str:
    """A paragraph on signs that the model learned nothing; empty without one."""
    return f"\n\n**Do not rely on this model.** {' '.join(sentences)}" if sentences else ""


def _earlier(summaries: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on the recordings of earlier trainings, where training started from another checkpoint's weights."""
    if not summaries:
        return ""
    steps = sum(int(summary["steps"]) for summary in summaries)
    return f" Training started from the weights of an earlier checkpoint, which were trained on {steps:,} steps."


def learned_env_id(simulator_id: str) -> str:
    """The id of the learned environment that takes the place of a simulator.

    Args:
        simulator_id: such as ``"Simulator-X-v0"``.

    Returns:
        ``"WorldModel-X-v0"`` if it is registered with Gymnasium, else :data:`ANY_CHECKPOINT`.
    """
    env_id = simulator_id.replace("Simulator", "WorldModel", 1)
    return env_id if env_id != simulator_id and env_id in gym.registry else ANY_CHECKPOINT


def parameters(folder: Path) -> dict[str, int]:
    """Count the parameters of a checkpoint in our own layout.

    Args:
        folder: the checkpoint.

    Returns:
        The numbers of ``tokenizer`` and ``transformer``.

    Raises:
        CheckpointError: if a file is missing or damaged.
    """
    return {name: _count(folder / file) for name, file in (("tokenizer", TOKENIZER), ("transformer", TRANSFORMER))}


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def checkpoint_table(folders: Iterable[Path]) -> str:
    """List checkpoints in our own layout.

    Args:
        folders: the checkpoints.

    Returns:
        A Markdown table of names, parameters, sizes, resolutions and tasks.

    Raises:
        ConfigError: if a configuration is damaged.
        CheckpointError: if weights are missing or damaged.
    """
    rows = []
    for folder in folders:
        config = read_config(folder)
        counts = (f"{count / 1e6:.1f} M" for count in parameters(folder).values())
        row = [folder.name, *counts, f"{size(folder) / 1e6:.1f} MB", str(config.resolution), ", ".join(config.tasks)]
        rows.append(row)
    return table(["name", "tokenizer", "transformer", "size", "pixels", "tasks"], rows)


def _count(path: Path) -> int:
    with open_tensors(path, "weights of a checkpoint", framework="np") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
