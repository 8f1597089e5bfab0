"""Training on mixtures: as on folders, exactly resumable."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldgym.data.mixture import Mixture
from worldgym.data.recordings import Recordings
from worldgym.errors import TrainingError
from worldgym.runs.checkpoint import load_state, newest_checkpoint
from worldgym.training.recipe import Recipe
from worldgym.training.runs import train_tokenizer, train_transformer

CPU = torch.device("cpu")
INTERRUPTED = 14  # draws before the signal; a batch takes 4 or 8


class Interrupting(Mixture):
    """A mixture that sends SIGINT while a batch is sampled."""

    draws = 0

    def draw(self, rng: np.random.Generator) -> int:
        self.draws += 1
        if self.draws == INTERRUPTED:
            os.kill(os.getpid(), signal.SIGINT)
        return super().draw(rng)


@pytest.fixture
def mixture(toy_data: Path, tmp_path: Path) -> Path:
    part = {"folders": [str(toy_data / "train")], "action_dim": 0}
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps({"whole": {**part, "weight": 1}, "halved": {**part, "weight": 3, "step": 2}}))
    return path


@pytest.fixture
def held_out_mixture(toy_data: Path, tmp_path: Path) -> Mixture:
    path = tmp_path / "held-out.json"
    path.write_text(json.dumps({"whole": {"folders": [str(toy_data / "held-out")], "action_dim": 0}}))
    return Mixture(path)


def assert_equal_checkpoints(first: Path, second: Path) -> None:
    (expected, counters), (found, others) = (load_state(newest_checkpoint(folder)) for folder in (first, second))
    assert counters == others
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_both_parts_resume_exactly(mixture: Path, held_out_mixture: Mixture, recipe: Recipe, tmp_path: Path) -> None:
    def tokenizer(folder: Path, data: Recordings, resume: bool = False) -> int:
        return train_tokenizer(recipe.tokenizer, data, held_out_mixture, folder, CPU, resume=resume)

    def transformer(folder: Path, data: Recordings, resume: bool = False) -> int:
        run = tmp_path / "tokenizer-unbroken"
        part = replace(recipe.transformer, job=replace(recipe.transformer.job, head_batches=8))
        return train_transformer(part, run, data, held_out_mixture, folder, CPU, resume=resume)

    for train in (tokenizer, transformer):
        unbroken, broken = (tmp_path / f"{train.__name__}-{name}" for name in ("unbroken", "broken"))
        assert train(unbroken, Mixture(mixture)) == 6
        assert train(broken, Interrupting(mixture)) < 6
        assert train(broken, Mixture(mixture), resume=True) == 6
        assert_equal_checkpoints(unbroken, broken)


def test_a_run_resumes_with_its_own_weights_alone(
    mixture: Path, held_out_mixture: Mixture, recipe: Recipe, tmp_path: Path
) -> None:
    train_tokenizer(recipe.tokenizer, Interrupting(mixture), held_out_mixture, tmp_path / "run", CPU)
    mixture.write_text(mixture.read_text().replace('"weight": 3', '"weight": 2'))
    with pytest.raises(TrainingError, match=r"data\.mixture\.halved\.weight: saved 3\.0, requested 2\.0"):
        train_tokenizer(recipe.tokenizer, Mixture(mixture), held_out_mixture, tmp_path / "run", CPU, resume=True)
