"""The heads of a checkpoint are fitted anew; everything else stays as it is."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldgym import WorldModel
from worldgym.cli import main
from worldgym.config import Sampling
from worldgym.data.recordings import Recordings
from worldgym.errors import ConfigError
from worldgym.runs.log import read_metrics
from worldgym.training.export import export
from worldgym.training.recipe import Recipe
from worldgym.training.runs import train_transformer
from worldgym.world_model import WorldModel as Model

CPU = torch.device("cpu")


def imagined_rewards(model: Model, recordings: Recordings) -> tuple[float, float]:
    """Means of imagined and of real rewards."""
    segments = [recordings.segment(index, 0, 8) for index in range(8)]
    frames = torch.from_numpy(np.stack([segment.frames[:2] for segment in segments]))
    imagined = model.rollout(frames, np.stack([segment.actions[1:] for segment in segments]), 0.3).rewards
    return imagined.mean().item(), float(np.mean([segment.rewards[1:].mean() for segment in segments]))


@pytest.fixture
def doubled(recordings: Recordings, held_out: Recordings, tmp_path: Path) -> Path:
    """The same episodes with twice the reward: folders ``train`` and ``held-out``."""
    for name, part in (("train", recordings), ("held-out", held_out)):
        for index, file in enumerate(part.episodes):
            episode = file.load()
            changed = dataclasses.replace(episode, rewards=2 * episode.rewards)
            changed.save(tmp_path / "doubled" / name / f"{index}.safetensors")
    return tmp_path / "doubled"


def test_only_the_heads_change(
    exported: Path, doubled: Path, held_out: Recordings, recipe_file: Path, tmp_path: Path
) -> None:
    data = ["--data", f"{doubled}/train", "--held-out", f"{doubled}/held-out", "--device", "cpu"]
    source = ["--initial", str(exported), "--tokenizer", str(exported), "--recipe", str(recipe_file)]
    command = ["train", "transformer", "--heads-only", *data, *source, "--job.head-batches", "16"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    assert "validation/greedy/psnr/1" in read_metrics(tmp_path / "run")[-1]
    assert main([*command, "--out", str(tmp_path / "run"), "--resume"]) == 0

    export(exported, tmp_path / "run", held_out, tmp_path / "refitted", Sampling())
    old, new = (WorldModel.from_pretrained(folder) for folder in (exported, tmp_path / "refitted"))
    states = [model.transformer.state_dict() | model.tokenizer.state_dict() for model in (old, new)]
    assert states[0].keys() == states[1].keys()
    changed = {name for name, value in states[0].items() if not torch.equal(value, states[1][name])}
    assert {name.split(".")[0] for name in changed} == {"reward_linear", "frame_error_linear"}
    imagined, real = imagined_rewards(new, Recordings(doubled / "train"))
    assert imagined == pytest.approx(real, rel=0.25)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {}, "heads_only: expected --initial"),
        ({"lora_rank": 2}, {"initial": "it"}, "heads_only: expected lora_rank 0 and accumulate 1.*got 2 and 1"),
        ({}, {"initial": "it", "accumulate": 2}, "heads_only: expected lora_rank 0 and accumulate 1.*got 0 and 2"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    recipe: Recipe,
    exported: Path,
    recordings: Recordings,
    held_out: Recordings,
    tmp_path: Path,
    changes: dict[str, Any],
    arguments: dict[str, Any],
    message: str,
) -> None:
    part = dataclasses.replace(recipe.transformer, job=dataclasses.replace(recipe.transformer.job, **changes))
    with pytest.raises(ConfigError, match=message):
        train_transformer(part, exported, recordings, held_out, tmp_path / "run", CPU, heads_only=True, **arguments)
    assert list(tmp_path.iterdir()) == []
