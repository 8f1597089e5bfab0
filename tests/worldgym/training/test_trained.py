import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from worldgym.data.recordings import Recordings
from worldgym.errors import CheckpointError, WorldGymError
from worldgym.runs.checkpoint import newest_checkpoint
from worldgym.training.recipe import Recipe
from worldgym.training.runs import train_tokenizer
from worldgym.training.trained import load_tokenizer_run, load_world_model_run

CPU = torch.device("cpu")


def test_transformer_needs_its_own_tokenizer(
    recipe: Recipe, transformer_run: Path, recordings: Recordings, held_out: Recordings, tmp_path: Path
) -> None:
    training = dataclasses.replace(recipe.tokenizer.training, steps=1)
    train_tokenizer(dataclasses.replace(recipe.tokenizer, training=training), recordings, held_out, tmp_path, CPU)
    with pytest.raises(CheckpointError, match="expected a transformer that was trained on the codes of"):
        load_world_model_run(tmp_path, transformer_run)


@pytest.mark.parametrize("text", ["{", "[]", '{"tokenizer": {"type": ["x"]}}', '{"tokenizer": 3}'])
def test_run_with_damaged_settings_raises(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(WorldGymError, match=str(tmp_path)):
        load_tokenizer_run(tmp_path)


def test_folder_without_a_run_raises(tmp_path: Path, tokenizer_run: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load_tokenizer_run(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="tokenizer_digest"):
        load_world_model_run(tokenizer_run, tokenizer_run)


def test_weights_that_do_not_fit_the_run_raise(tokenizer_run: Path, tmp_path: Path) -> None:
    described = json.loads((tokenizer_run / "config.json").read_text(encoding="utf-8"))
    described["tokenizer"]["width"] = 16
    (tmp_path / "config.json").write_text(json.dumps(described), encoding="utf-8")
    shutil.copytree(newest_checkpoint(tokenizer_run), tmp_path / "checkpoint-000001")
    with pytest.raises(CheckpointError, match=r"do not fit its config\.json"):
        load_tokenizer_run(tmp_path)


def test_a_published_folder_is_a_trained_tokenizer(parity: Path) -> None:
    trained = load_tokenizer_run(parity)
    assert trained.config.context_length == 2
    assert not trained.training_data
