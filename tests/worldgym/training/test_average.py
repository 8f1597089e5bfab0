"""A moving average of the weights is validated, saved and exported in their place."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from worldgym.data.recordings import Recordings
from worldgym.errors import ConfigError
from worldgym.runs.checkpoint import load_state, newest_checkpoint
from worldgym.storage.tensors import Tensors, select_prefix
from worldgym.training.average import Average
from worldgym.training.loop import TrainingConfig
from worldgym.training.recipe import Recipe
from worldgym.training.runs import train_tokenizer, train_transformer
from worldgym.training.tokenizer import TokenizerTrainer
from worldgym.training.trained import load_tokenizer_run, load_world_model_run
from worldgym.training.transformer import TransformerTrainer

CPU = torch.device("cpu")
TRAINERS = {"tokenizer": TokenizerTrainer, "transformer": TransformerTrainer}
Train = Callable[..., int]


@pytest.fixture
def train_part(recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings) -> Train:
    """Trains one part of the toy model."""

    def train(part: str, folder: Path, resume: bool = False, **changes: Any) -> int:
        own = getattr(recipe, part)
        own = dataclasses.replace(own, training=dataclasses.replace(own.training, **changes))
        if part == "tokenizer":
            return train_tokenizer(own, recordings, held_out, folder, CPU, resume=resume)
        job = dataclasses.replace(own, job=dataclasses.replace(own.job, head_batches=8))
        return train_transformer(job, tokenizer_run, recordings, held_out, folder, CPU, resume=resume)

    return train


def weights(folder: Path, prefix: str) -> Tensors:
    return select_prefix(prefix, load_state(newest_checkpoint(folder))[0])


def test_it_is_the_weighted_mean_of_the_weights() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = Average(model, 0.5)
    expected, value = model.weight.item(), 0.0
    for update in range(1, 30):
        value = float(update % 7)
        nn.init.constant_(model.weight, value)
        average.update(update)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
    assert average.state_dict()["weight"].item() == pytest.approx(expected)
    with average.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == value


def test_it_is_kept_in_float32_and_leaves_out_what_takes_no_gradient() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Embedding(2, 2), nn.BatchNorm1d(2)).to(torch.bfloat16)
    model[1].requires_grad_(False)
    state = Average(model, 0.9).state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert state.keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}


@pytest.mark.parametrize("part", ["tokenizer", "transformer"])
def test_interrupted_training_resumes_exactly(
    part: str,
    train_part: Train,
    interrupted: Callable[[type, int], None],
    assert_equal_runs: Callable[[Path, Path], None],
    tmp_path: Path,
) -> None:
    train_part(part, tmp_path / "unbroken", ema_decay=0.9)
    interrupted(TRAINERS[part], 3)
    assert train_part(part, tmp_path / "broken", ema_decay=0.9) == 3
    raw, saved = weights(tmp_path / "broken", "raw"), weights(tmp_path / "broken", "model")
    assert any(not torch.equal(raw[name], saved[name]) for name in raw)
    assert train_part(part, tmp_path / "broken", ema_decay=0.9, resume=True) == 6
    assert_equal_runs(tmp_path / "unbroken", tmp_path / "broken")


def test_training_itself_is_as_without_an_average(
    train_part: Train, tokenizer_run: Path, interrupted: Callable[[type, int], None], tmp_path: Path
) -> None:
    interrupted(TokenizerTrainer, 5)
    train_part("tokenizer", tmp_path / "averaged", ema_decay=0.9)
    interrupted(TokenizerTrainer, 5)
    train_part("tokenizer", tmp_path / "plain")
    raw, plain = weights(tmp_path / "averaged", "raw"), weights(tmp_path / "plain", "model")
    assert all(torch.equal(raw[name], plain[name]) for name in plain)
    assert {name.split(".")[0] for name in load_state(newest_checkpoint(tmp_path / "plain"))[0]} == {
        "model",
        "optimizer",
        "trainable",
    }


def test_a_finished_run_gives_the_averaged_model(train_part: Train, tokenizer_run: Path, tmp_path: Path) -> None:
    train_part("tokenizer", tmp_path / "tokenizer", ema_decay=0.9)
    found, plain = load_tokenizer_run(tmp_path / "tokenizer"), load_tokenizer_run(tokenizer_run)
    saved = weights(tmp_path / "tokenizer", "model")
    state = found.tokenizer.state_dict()
    assert all(torch.equal(state[name], value) for name, value in saved.items())
    assert found.digest != plain.digest
    codebooks = zip(found.tokenizer.codebooks(), plain.tokenizer.codebooks(), strict=True)
    assert all(torch.equal(*pair) for pair in codebooks)  # they are moving averages already


def test_the_heads_are_fitted_to_the_averaged_transformer(
    train_part: Train, tokenizer_run: Path, recordings: Recordings, tmp_path: Path
) -> None:
    train_part("transformer", tmp_path, ema_decay=0.9)
    model = load_world_model_run(tokenizer_run, tmp_path).world_model
    segments = [recordings.segment(index, 0, 8) for index in range(8)]
    frames = torch.from_numpy(np.stack([segment.frames[:2] for segment in segments]))
    imagined = model.rollout(frames, np.stack([segment.actions[1:] for segment in segments]), 0.3).rewards
    real = np.stack([segment.rewards[1:] for segment in segments])
    assert imagined.mean().item() == pytest.approx(real.mean(), rel=0.35)


def test_an_invalid_decay_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ema_decay: expected a number in \[0, 1\), got 1"):
        TrainingConfig(steps=1, ema_decay=1.0)
