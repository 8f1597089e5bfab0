"""Recordings of a square that the actions push, 32 x 32 pixels, and the recipe of a toy model for them."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldgym.config import Sampling
from worldgym.data.episode import Episode, EpisodeInfo
from worldgym.data.recordings import Recordings
from worldgym.runs.checkpoint import load_state, newest_checkpoint
from worldgym.runs.log import read_metrics
from worldgym.training.export import export
from worldgym.training.recipe import Recipe, load_recipe
from worldgym.training.runs import train_tokenizer, train_transformer

SIDE, SQUARE, STEPS = 32, 8, 24


def toy_episode(seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    actions = rng.choice([-1.0, 1.0], (STEPS, 2)).astype(np.float32)
    place, frames, rewards = np.array([12, 12]), [], []
    for step in range(STEPS + 1):
        frame = np.full((SIDE, SIDE, 3), 40, np.uint8)
        frame[place[0] : place[0] + SQUARE, place[1] : place[1] + SQUARE] = (250, 220, 30)
        frames.append(frame)
        if step < STEPS:
            place = np.clip(place + 4 * actions[step].astype(int), 0, SIDE - SQUARE)
            rewards.append(place[0] / 8)
    info = EpisodeInfo("Toy", "push", "random", seed, 1)
    return Episode(np.stack(frames), actions, np.array(rewards, np.float32), np.zeros(STEPS, np.bool_), info)


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the folders ``train`` and ``held-out``."""
    folder = tmp_path_factory.mktemp("toy")
    for part, seeds in (("train", range(8)), ("held-out", range(100, 103))):
        for seed in seeds:
            toy_episode(seed).save(folder / part / f"{seed}.safetensors")
    return folder


@pytest.fixture(scope="session")
def recordings(toy_data: Path) -> Recordings:
    return Recordings(toy_data / "train")


@pytest.fixture(scope="session")
def held_out(toy_data: Path) -> Recordings:
    return Recordings(toy_data / "held-out")


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a toy model, in a file."""
    training = {
        "steps": 6,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "warmup_steps": 2,
        "log_every": 1,
        "validate_every": 100,
        "save_every": 2,
        "precision": "float32",
    }
    tokenizer = {
        "type": "compact",
        "resolution": SIDE,
        "width": 8,
        "depth": 1,
        "context_grid": 4,
        "frame_grid": 2,
        "latent_channels": 4,
        "context_codes": 16,
        "dynamics_codes": 32,
    }
    transformer = {
        "layers": 1,
        "heads": 2,
        "key_value_heads": 1,
        "hidden_size": 32,
        "mlp_size": 64,
        "max_positions": 2 * 17 + 10 * 5,
    }
    recipe = {
        "tokenizer": {"model": tokenizer, "job": {"segment_length": 8, "future_frames": 3}, "training": training},
        "transformer": {
            "model": transformer,
            "job": {"segment_length": 8, "start_stride": 4},
            "training": {**training, "batch_size": 8},
        },
    }
    path = tmp_path_factory.mktemp("recipe") / "recipe.json"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file)


@pytest.fixture(scope="session")
def tokenizer_run(
    tmp_path_factory: pytest.TempPathFactory, recipe: Recipe, recordings: Recordings, held_out: Recordings
) -> Path:
    """The run of a tokenizer, trained for a few steps. Tests must not write to its folder."""
    folder = tmp_path_factory.mktemp("runs") / "tokenizer"
    train_tokenizer(recipe.tokenizer, recordings, held_out, folder, torch.device("cpu"))
    return folder


@pytest.fixture(scope="session")
def transformer_run(
    tmp_path_factory: pytest.TempPathFactory,
    recipe: Recipe,
    tokenizer_run: Path,
    recordings: Recordings,
    held_out: Recordings,
) -> Path:
    """The run of a transformer on the tokenizer's codes, likewise."""
    folder = tmp_path_factory.mktemp("runs") / "transformer"
    names = ("up", "right")
    train_transformer(recipe.transformer, tokenizer_run, recordings, held_out, folder, torch.device("cpu"), names)
    return folder


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory, tokenizer_run: Path, transformer_run: Path, held_out: Recordings
) -> Path:
    """The checkpoint of both runs, likewise."""
    folder = tmp_path_factory.mktemp("exported") / "first"
    export(tokenizer_run, transformer_run, held_out, folder, Sampling())
    return folder


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[type, int], None]:
    """Lets SIGINT arrive in the given call of a trainer's loss, counted over all trainers of the class."""

    def interrupt(trainer: type, call: int) -> None:
        loss, calls = trainer.loss, []  # type: ignore[attr-defined]

        def counted(*arguments: Any) -> Any:
            calls.append(arguments)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGINT)
            return loss(*arguments)

        monkeypatch.setattr(trainer, "loss", counted)

    return interrupt


@pytest.fixture(scope="session")
def assert_equal_runs() -> Callable[[Path, Path], None]:
    """Checks that two runs have the same newest checkpoint and the same curve."""

    def check(first: Path, second: Path) -> None:
        (tensors, counters), (others, other_counters) = (load_state(newest_checkpoint(run)) for run in (first, second))
        assert counters == other_counters
        assert tensors.keys() == others.keys()
        assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []
        curves = [[line["loss"] for line in read_metrics(run) if "loss" in line] for run in (first, second)]
        assert curves[0] == curves[1]

    return check
