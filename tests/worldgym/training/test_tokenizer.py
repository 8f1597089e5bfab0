import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldgym.data.recordings import Recordings
from worldgym.tokenizer import build_tokenizer
from worldgym.training.loop import TrainingConfig, train
from worldgym.training.recipe import Recipe
from worldgym.training.tokenizer import TokenizerJob


class Distance(nn.Module):
    """Stands in for LPIPS: any distance of images will do."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        assert first.shape == second.shape
        assert first.ndim == 4
        return 7 + 0 * (first - second).mean(dim=(1, 2, 3))


@pytest.fixture
def job(recipe: Recipe, recordings: Recordings, held_out: Recordings) -> TokenizerJob:
    torch.manual_seed(0)
    return TokenizerJob(build_tokenizer(recipe.tokenizer.model), recipe.tokenizer.job, 4, recordings, held_out)


def test_the_loss_falls_on_a_moving_square(job: TokenizerJob, tmp_path: Path) -> None:
    config = TrainingConfig(40, 4, 3e-3, warmup_steps=5, log_every=1, validate_every=100, precision="float32")
    train(job, config, tmp_path, {})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert lines[-1]["validation/codes_used/context"] > 1


def test_equal_draws_give_equal_losses(job: TokenizerJob) -> None:
    job.model.eval()
    first, again, other = (job.loss(np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first[1] == again[1]
    assert first[0] != other[0]


def test_the_loss_is_the_sum_of_its_parts(job: TokenizerJob) -> None:
    loss, metrics = job.loss(np.random.default_rng(0))
    assert loss.item() == pytest.approx(sum(metrics.values()), rel=1e-5)


def test_a_perceptual_distance_takes_the_place_of_the_squared_error(job: TokenizerJob) -> None:
    job.model.eval()
    _, plain = job.loss(np.random.default_rng(0))
    job.perceptual = Distance()
    _, perceptual = job.loss(np.random.default_rng(0))
    assert perceptual["reconstruction/future"] > 7
    assert perceptual["commitment/context"] == plain["commitment/context"]


def test_validation_measures_and_shows(job: TokenizerJob, tmp_path: Path) -> None:
    job.model.eval()
    with torch.no_grad():
        metrics = job.validate(tmp_path / "0000001")
    assert {"psnr/1", "psnr/5", "psnr_last_frame/1", "perplexity/context", "codes_used/dynamics"} <= metrics.keys()
    assert np.isfinite(list(metrics.values())).all()
    assert (tmp_path / "0000001.gif").stat().st_size > 0
