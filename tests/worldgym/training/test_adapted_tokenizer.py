"""Adapting the tokenizer of a checkpoint while its transformer stays as it is (paper, section 4.4)."""

import dataclasses
from pathlib import Path

import pytest
import torch

from worldgym import WorldModel
from worldgym.config import Sampling
from worldgym.data.recordings import Recordings
from worldgym.errors import CheckpointError, ConfigError
from worldgym.training.export import export
from worldgym.training.recipe import Recipe
from worldgym.training.runs import train_tokenizer, train_transformer

CPU = torch.device("cpu")


@pytest.fixture
def checkpoint(tokenizer_run: Path, transformer_run: Path, held_out: Recordings, tmp_path: Path) -> Path:
    export(tokenizer_run, transformer_run, held_out, tmp_path / "checkpoint", Sampling())
    return tmp_path / "checkpoint"


def _adapt(recipe: Recipe, fixed: bool, initial: Path, data: tuple[Recordings, Recordings], folder: Path) -> None:
    job = dataclasses.replace(recipe.tokenizer.job, fixed_codes=fixed)
    training = dataclasses.replace(recipe.tokenizer.training, steps=2)
    part = dataclasses.replace(recipe.tokenizer, job=job, training=training)
    train_tokenizer(part, *data, folder, CPU, initial=str(initial))


def test_an_adapted_tokenizer_keeps_codes_and_transformer(
    checkpoint: Path, recipe: Recipe, recordings: Recordings, held_out: Recordings, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    _adapt(recipe, True, checkpoint, (recordings, held_out), tmp_path / "run")
    config = export(tmp_path / "run", checkpoint, held_out, tmp_path / "adapted", Sampling(0.5))
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    old, new = (WorldModel.from_pretrained(folder) for folder in (checkpoint, tmp_path / "adapted"))
    for name, value in old.transformer.state_dict().items():
        assert torch.equal(new.transformer.state_dict()[name], value), name
    for ours, theirs in zip(new.tokenizer.codebooks(), old.tokenizer.codebooks(), strict=True):
        assert torch.equal(ours, theirs)
    changed = {
        name
        for name, value in old.tokenizer.state_dict().items()
        if not torch.equal(new.tokenizer.state_dict()[name], value)
    }
    assert any(name.startswith("decoder.") for name in changed)
    assert not any("quantizer" in name or "spread" in name for name in changed)
    assert config.sampling == Sampling(0.5)
    assert config.training_data["earlier"] == [old.config.training_data["trained_on"]]


def test_a_tokenizer_with_other_codes_does_not_fit_the_transformer(
    checkpoint: Path, recipe: Recipe, recordings: Recordings, held_out: Recordings, tmp_path: Path
) -> None:
    _adapt(recipe, False, checkpoint, (recordings, held_out), tmp_path / "run")
    with pytest.raises(CheckpointError, match=f"expected a tokenizer that was adapted.*--initial {checkpoint}"):
        export(tmp_path / "run", checkpoint, held_out, tmp_path / "adapted", Sampling())
    assert not (tmp_path / "adapted").exists()


@pytest.mark.parametrize("fixed", [True, False])
def test_heads_are_fitted_on_an_adapted_tokenizer_only_if_it_has_the_same_codes(
    checkpoint: Path, recipe: Recipe, recordings: Recordings, held_out: Recordings, tmp_path: Path, fixed: bool
) -> None:
    _adapt(recipe, fixed, checkpoint, (recordings, held_out), tmp_path / "run")
    part = dataclasses.replace(recipe.transformer, job=dataclasses.replace(recipe.transformer.job, head_batches=1))
    places = tmp_path / "run", recordings, held_out, tmp_path / "heads", CPU
    if not fixed:
        with pytest.raises(ConfigError, match=f"whose codes its weights understand.*--tokenizer {checkpoint}"):
            train_transformer(part, *places, initial=str(checkpoint), heads_only=True)
        assert not (tmp_path / "heads").exists()
        return
    assert train_transformer(part, *places, initial=str(checkpoint), heads_only=True) == part.training.steps
    assert export(tmp_path / "run", tmp_path / "heads", held_out, tmp_path / "fitted", Sampling()).frame_error


def test_a_transformer_that_half_precision_would_round_is_kept(
    checkpoint: Path, recipe: Recipe, recordings: Recordings, held_out: Recordings, tmp_path: Path
) -> None:
    model = WorldModel.from_pretrained(checkpoint)
    torch.nn.init.normal_(model.transformer.llm.lm_head.weight)
    model.save_pretrained(tmp_path / "float32")
    _adapt(recipe, True, tmp_path / "float32", (recordings, held_out), tmp_path / "run")
    export(tmp_path / "run", tmp_path / "float32", held_out, tmp_path / "adapted", Sampling())
    kept = WorldModel.from_pretrained(tmp_path / "adapted").transformer.llm.lm_head.weight
    assert torch.equal(kept, model.transformer.llm.lm_head.weight)
