import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldgym.data.recordings import Recordings
from worldgym.errors import ConfigError
from worldgym.tokenizer import build_tokenizer
from worldgym.training.loop import TrainingConfig, train
from worldgym.training.recipe import Recipe
from worldgym.training.tokenizer import TokenizerTrainer, TokenizerTrainingConfig


class Distance(nn.Module):
    """A distance between images in place of LPIPS."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        assert first.shape == second.shape
        assert first.ndim == 4
        return 7 + 0 * (first - second).mean(dim=(1, 2, 3))


@pytest.fixture
def trainer(recipe: Recipe, recordings: Recordings, held_out: Recordings) -> TokenizerTrainer:
    torch.manual_seed(0)
    return TokenizerTrainer(build_tokenizer(recipe.tokenizer.model), recipe.tokenizer.job, 4, recordings, held_out)


def test_loss_falls_on_a_moving_square(trainer: TokenizerTrainer, tmp_path: Path) -> None:
    config = TrainingConfig(40, 4, 3e-3, warmup_steps=5, log_every=1, validate_every=100, precision="float32")
    train(trainer, config, tmp_path, {})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert lines[-1]["validation/codes_used/context"] > 1


def test_equal_batches_have_equal_losses(trainer: TokenizerTrainer) -> None:
    trainer.model.eval()
    first, again, other = (trainer.loss(np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first[1] == again[1]
    assert first[0] != other[0]


def test_loss_is_the_sum_of_its_parts(trainer: TokenizerTrainer) -> None:
    loss, metrics = trainer.loss(np.random.default_rng(0))
    assert loss.item() == pytest.approx(sum(metrics.values()), rel=1e-5)


def test_perceptual_distance_replaces_the_squared_error(trainer: TokenizerTrainer) -> None:
    trainer.model.eval()
    _, plain = trainer.loss(np.random.default_rng(0))
    trainer.perceptual = Distance()
    _, perceptual = trainer.loss(np.random.default_rng(0))
    assert perceptual["reconstruction/future"] > 7
    assert perceptual["commitment/context"] == plain["commitment/context"]


def test_validation_has_metrics_and_a_video(trainer: TokenizerTrainer, tmp_path: Path) -> None:
    trainer.model.eval()
    with torch.no_grad():
        metrics = trainer.validate(tmp_path / "0000001")
    assert {"psnr/1", "psnr/5", "psnr_last_frame/1", "perplexity/context", "codes_used/dynamics"} <= metrics.keys()
    assert np.isfinite(list(metrics.values())).all()
    assert (tmp_path / "0000001.gif").stat().st_size > 0


def test_recordings_of_another_size_raise(
    recipe: Recipe, recordings: Recordings, held_out: Recordings, synthetic_recordings: Path
) -> None:
    model, other = build_tokenizer(recipe.tokenizer.model), Recordings(synthetic_recordings)
    for parts in ((other, held_out), (recordings, other)):
        with pytest.raises(ConfigError, match=r"recordings\d*: expected frames of 32 x 32 pixels.*got 64 x 64"):
            TokenizerTrainer(model, recipe.tokenizer.job, 4, *parts)


def test_wide_frames_raise(recipe: Recipe, recordings: Recordings, tmp_path: Path) -> None:
    """The height is the model's, the width is not."""
    episode = recordings.episodes[0].load()
    wide = dataclasses.replace(episode, frames=episode.frames.repeat(2, axis=2))
    wide.save(tmp_path / "wide.safetensors")
    with pytest.raises(ConfigError, match=r"expected frames of 32 x 32 pixels.*got 32 x 64"):
        TokenizerTrainer(
            build_tokenizer(recipe.tokenizer.model), recipe.tokenizer.job, 4, recordings, Recordings(tmp_path)
        )


def test_invalid_segments_raise(
    recipe: Recipe, recordings: Recordings, held_out: Recordings, synthetic_recordings: Path
) -> None:
    with pytest.raises(ConfigError, match="future_frames: expected a number from 1 to segment_length - 1 = 5, got 6"):
        TokenizerTrainingConfig(segment_length=6, future_frames=6)
    model = build_tokenizer(recipe.tokenizer.model)
    with pytest.raises(ConfigError, match="expected at least 2 context frames and 5 future frames, got 6"):
        TokenizerTrainer(model, TokenizerTrainingConfig(6, 5), 4, recordings, held_out)


def test_clips_begin_anywhere_or_at_the_first_frame(
    recipe: Recipe, recordings: Recordings, held_out: Recordings
) -> None:
    config = TokenizerTrainingConfig(25, 3, first_share=0.5)
    trainer = TokenizerTrainer(build_tokenizer(recipe.tokenizer.model), config, 4, recordings, held_out)
    chosen = [trainer._choose_clip(np.random.default_rng(seed)) for seed in range(100)]
    clips = [recordings.episodes[episode].frames_at(frames) for episode, frames in chosen]
    assert {clip.shape for clip in clips} == {(5, 32, 32, 3)}
    repeated = np.mean([np.array_equal(clip[0], clip[1]) for clip in clips])
    assert 0.4 < repeated < 0.75  # the square also stands still at the border
