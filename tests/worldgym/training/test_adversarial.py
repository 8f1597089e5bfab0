"""A tokenizer is trained against a discriminator."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldgym.data.recordings import Recordings, to_unit
from worldgym.errors import CheckpointError, ConfigError
from worldgym.metrics.lpips import LPIPS
from worldgym.runs.checkpoint import load_state, newest_checkpoint
from worldgym.runs.log import read_metrics
from worldgym.storage.tensors import Tensors, select_prefix
from worldgym.tokenizer import build_tokenizer
from worldgym.training.adversarial import Adversary
from worldgym.training.recipe import Recipe, TokenizerRecipe
from worldgym.training.runs import train_tokenizer
from worldgym.training.tokenizer import TokenizerTrainer, TokenizerTrainingConfig

CPU = torch.device("cpu")


def with_job(recipe: Recipe, **changes: Any) -> TokenizerRecipe:
    return dataclasses.replace(recipe.tokenizer, job=dataclasses.replace(recipe.tokenizer.job, **changes))


def make_adversary(weight: float = 0.8, start: int = 0) -> Adversary:
    torch.manual_seed(1)
    return Adversary(32, weight, start, 1e-3, lambda updates: 1.0, 1.0)


def state(folder: Path) -> Tensors:
    return load_state(newest_checkpoint(folder))[0]


@pytest.fixture
def make_trainer(recipe: Recipe, recordings: Recordings, held_out: Recordings) -> Any:
    def make(adversary: Adversary | None) -> TokenizerTrainer:
        torch.manual_seed(0)
        model = build_tokenizer(recipe.tokenizer.model)
        return TokenizerTrainer(model, recipe.tokenizer.job, 4, recordings, held_out, adversary=adversary)

    return make


def test_the_discriminator_begins_after_the_given_updates(
    recipe: Recipe, recordings: Recordings, held_out: Recordings, tmp_path: Path
) -> None:
    part = with_job(recipe, adversarial_weight=0.8, disc_start=4)
    train_tokenizer(part, recordings, held_out, tmp_path, CPU)
    lines = [line for line in read_metrics(tmp_path) if "loss" in line]
    assert [line["step"] for line in lines if "adversarial/generator" in line] == [5, 6]
    assert [line["step"] for line in lines if "adversarial/discriminator" in line] == [5, 6]


def test_before_it_begins_training_is_as_without_it(
    recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings, tmp_path: Path
) -> None:
    part = with_job(recipe, adversarial_weight=0.8, disc_start=6)
    train_tokenizer(part, recordings, held_out, tmp_path, CPU)
    plain, found = (select_prefix("model", state(folder)) for folder in (tokenizer_run, tmp_path))
    assert all(torch.equal(plain[name], found[name]) for name in plain)
    assert not [name for name in state(tokenizer_run) if "adversary" in name]


def test_the_adaptive_weight_makes_both_gradients_alike(make_trainer: Any) -> None:
    adversary = make_adversary(0.5)
    trainer: TokenizerTrainer = make_trainer(adversary)
    clips = torch.from_numpy(trainer.recordings.episodes[0].frames(0, 6))[None]
    real = to_unit(clips)
    out = trainer.model(real)
    reconstruction = (out.future - real[:, 2:]).abs().mean()
    found = adversary.loss(trainer.model, real, out, reconstruction)
    assert found is not None
    layer = trainer.model.last_layer.weight
    norms = [torch.autograd.grad(loss, layer, retain_graph=True)[0].norm() for loss in (reconstruction, found[0])]
    assert float(norms[1]) == pytest.approx(0.5 * float(norms[0]), rel=1e-3)


def test_the_discriminator_learns_to_tell_frames_from_reconstructions(make_trainer: Any) -> None:
    adversary = make_adversary()
    trainer: TokenizerTrainer = make_trainer(adversary)
    losses = []
    for _ in range(15):  # the same batch, by a tokenizer that stays as it is
        trainer.loss(np.random.default_rng(0))
        losses.append(adversary.update()["adversarial/discriminator"])
    assert losses[0] == pytest.approx(1, abs=0.3)
    assert losses[-1] < 0.8 * losses[0]


def test_the_loss_alone_changes_no_weight_of_the_discriminator(make_trainer: Any) -> None:
    adversary = make_adversary()
    before = {name: value.clone() for name, value in adversary.state_dict().items()}
    trainer: TokenizerTrainer = make_trainer(adversary)
    trainer.loss(np.random.default_rng(0))[0].backward()
    assert all(torch.equal(value, before[name]) for name, value in adversary.state_dict().items())


def test_interrupted_training_resumes_exactly(
    recipe: Recipe,
    recordings: Recordings,
    held_out: Recordings,
    interrupted: Callable[[type, int], None],
    assert_equal_runs: Callable[[Path, Path], None],
    tmp_path: Path,
) -> None:
    part = with_job(recipe, adversarial_weight=0.8, disc_start=1)
    data = recordings, held_out
    train_tokenizer(part, *data, tmp_path / "unbroken", CPU)
    interrupted(TokenizerTrainer, 3)
    assert train_tokenizer(part, *data, tmp_path / "broken", CPU) == 3
    assert train_tokenizer(part, *data, tmp_path / "broken", CPU, resume=True) == 6
    assert_equal_runs(tmp_path / "unbroken", tmp_path / "broken")


def test_it_trains_beside_lpips(recipe: Recipe, recordings: Recordings, held_out: Recordings, tmp_path: Path) -> None:
    torch.manual_seed(0)
    part = with_job(recipe, adversarial_weight=0.8)
    part = dataclasses.replace(part, training=dataclasses.replace(part.training, steps=2, batch_size=2))
    assert train_tokenizer(part, recordings, held_out, tmp_path, CPU, LPIPS()) == 2
    assert np.isfinite([line["adversarial/adaptive_weight"] for line in read_metrics(tmp_path) if "loss" in line]).all()


def test_a_state_without_a_discriminator_is_refused() -> None:
    with pytest.raises(CheckpointError, match="expected the state of a discriminator, got none"):
        make_adversary().load_state_dict({})


def test_small_frames_and_invalid_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"adversarial_weight: expected 0 for frames of less than 32 pixels.*got 0.8"):
        Adversary(16, 0.8, 0, 1e-3, lambda updates: 1.0, 1.0)
    for name in ("adversarial_weight", "disc_start"):
        with pytest.raises(ConfigError, match=f"{name}: expected a number of at least 0, got -1"):
            TokenizerTrainingConfig(**{name: -1})
