import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import worldgym.checkpoints
from worldgym import WorldModel
from worldgym.config import Sampling
from worldgym.data.recordings import Recordings
from worldgym.errors import CheckpointError, ConfigError, DataError, WorldGymError
from worldgym.reports.commands import training_commands
from worldgym.runs.checkpoint import load_state, newest_checkpoint, save_state
from worldgym.training.export import export
from worldgym.training.recipe import Recipe, load_recipe, recipe_from_dict, recipe_to_dict
from worldgym.training.runs import train_tokenizer, train_transformer
from worldgym.training.trained import load_tokenizer_run, load_world_model_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def transformer_run(
    tmp_path_factory: pytest.TempPathFactory,
    recipe: Recipe,
    tokenizer_run: Path,
    recordings: Recordings,
    held_out: Recordings,
) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "transformer"
    train_transformer(recipe.transformer, tokenizer_run, recordings, held_out, folder, CPU, ("up", "right"))
    return folder


def test_recipe_is_read_back(recipe: Recipe) -> None:
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(recipe))), "here") == recipe


@pytest.mark.parametrize("path", sorted(Path(worldgym.checkpoints.__file__).parent.glob("*/recipe.json")), ids=str)
def test_shipped_recipes_can_be_built(path: Path) -> None:
    recipe = load_recipe(path)
    layout = recipe.tokenizer.model.layout
    future = recipe.transformer.job.segment_length - layout.context_length
    assert layout.horizon(recipe.transformer.model.max_positions) >= future


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": None}, "tokenizer: expected an object"),
        ({"transformer": {"model": {}, "job": {}}}, "'training' is missing"),
        ({"transformer": {"model": {"layer": 2}, "job": {}, "training": {"steps": 1}}}, "did you mean 'layers'"),
        (
            {"tokenizer": {"model": {"type": "big"}, "job": {}, "training": {"steps": 1}}},
            "unknown tokenizer type 'big'",
        ),
    ],
)
def test_invalid_recipe_names_the_entry(recipe: Recipe, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_from_dict({**recipe_to_dict(recipe), **change}, "here")


def test_file_that_is_no_recipe_raises(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"recipe\.json"):
        load_recipe(tmp_path / "recipe.json")
    with pytest.raises(ConfigError, match="nowhere"):
        load_recipe(tmp_path / "nowhere")
    (tmp_path / "recipe.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="must hold a JSON object, got list"):
        load_recipe(tmp_path / "recipe.json")
    (tmp_path / "recipe.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="'tokenizer' and 'transformer'"):
        load_recipe(tmp_path / "recipe.json")


def test_export_of_two_runs(
    tokenizer_run: Path, transformer_run: Path, held_out: Recordings, recipe: Recipe, tmp_path: Path
) -> None:
    export(tokenizer_run, transformer_run, held_out, tmp_path, Sampling(0.3, 50))
    model = WorldModel.from_pretrained(tmp_path)
    trained = load_world_model_run(tokenizer_run, transformer_run).world_model
    for name, value in trained.transformer.state_dict().items():
        torch.testing.assert_close(model.transformer.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    config = model.config
    assert (config.tasks, config.action_names, config.frame_skip) == (("push",), ("up", "right"), 1)
    assert config.sampling == Sampling(0.3, 50)
    assert config.max_episode_steps == 24
    assert config.training_data["trained_on"]["episodes"] == {"push": {"random": 8}}
    assert config.training_data["held_out"]["seeds"] == {"push": {"random": "100-102"}}
    assert load_recipe(tmp_path / "recipe.json") == recipe


def test_export_of_weights_beyond_half_precision_leaves_the_folder_unchanged(
    tokenizer_run: Path, transformer_run: Path, held_out: Recordings, tmp_path: Path
) -> None:
    run, checkpoint = shutil.copytree(transformer_run, tmp_path / "run"), tmp_path / "checkpoint"
    export(tokenizer_run, run, held_out, checkpoint, Sampling())
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    tensors, counters = load_state(newest_checkpoint(run))
    tensors["model.llm.lm_head.weight"].fill_(1e6)
    save_state(newest_checkpoint(run), tensors, counters)
    with pytest.raises(CheckpointError, match="not finite"):
        export(tokenizer_run, run, held_out, checkpoint, Sampling(0.5))
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "run"]


def test_recordings_of_the_tokenizer_alone_are_noted_and_not_held_out(
    tokenizer_run: Path, transformer_run: Path, held_out: Recordings, tmp_path: Path
) -> None:
    other = shutil.copytree(tokenizer_run, tmp_path / "other")

    def trained_on(first_seed: int) -> None:
        described = json.loads((tokenizer_run / "config.json").read_text(encoding="utf-8"))
        described["data"]["seeds"]["push"]["random"] = f"{first_seed}-{first_seed + 7}"
        (other / "config.json").write_text(json.dumps(described), encoding="utf-8")

    trained_on(100)
    with pytest.raises(DataError, match="not used in training"):
        export(other, transformer_run, held_out, tmp_path / "checkpoint", Sampling())
    trained_on(50)
    config = export(other, transformer_run, held_out, tmp_path / "checkpoint", Sampling())
    assert config.training_data["tokenizer_trained_on"]["seeds"] == {"push": {"random": "50-57"}}
    assert config.training_data["trained_on"]["seeds"] == {"push": {"random": "0-7"}}
    commands = "\n".join(training_commands("mine", config))
    assert "worldgym collect --out data/tokenizer --tasks push --episodes random=8 --seed 50" in commands
    assert "worldgym train tokenizer --recipe mine --data data/tokenizer" in commands
    assert "worldgym train transformer --recipe mine --tokenizer runs/tokenizer --data data/train" in commands


def test_transformer_needs_its_own_tokenizer(
    recipe: Recipe, transformer_run: Path, recordings: Recordings, held_out: Recordings, tmp_path: Path
) -> None:
    training = dataclasses.replace(recipe.tokenizer.training, steps=1)
    train_tokenizer(dataclasses.replace(recipe.tokenizer, training=training), recordings, held_out, tmp_path, CPU)
    with pytest.raises(CheckpointError, match="expected a transformer that was trained on the codes of"):
        load_world_model_run(tmp_path, transformer_run)


def test_unfinished_runs_are_refused(
    recipe: Recipe,
    tokenizer_run: Path,
    transformer_run: Path,
    recordings: Recordings,
    held_out: Recordings,
    tmp_path: Path,
) -> None:
    broken = shutil.copytree(tokenizer_run, tmp_path / "broken")
    described = json.loads((broken / "config.json").read_text(encoding="utf-8"))
    described["training"]["steps"] = 9
    (broken / "config.json").write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"step 6 of 9.*--resume"):
        train_transformer(recipe.transformer, broken, recordings, held_out, tmp_path / "run", CPU)
    for runs in ((broken, transformer_run), (tokenizer_run, broken)):
        with pytest.raises(CheckpointError, match=r"step 6 of 9.*--resume"):
            export(*runs, held_out, tmp_path / "checkpoint", Sampling())
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


@pytest.mark.parametrize("text", ["{", "[]", '{"tokenizer": {"type": ["x"]}}', '{"tokenizer": 3}'])
def test_run_with_damaged_settings_raises(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(WorldGymError, match=str(tmp_path)):
        load_tokenizer_run(tmp_path)


def test_training_episodes_are_not_held_out(
    recipe: Recipe, recordings: Recordings, tokenizer_run: Path, transformer_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="not used in training"):
        train_tokenizer(recipe.tokenizer, recordings, recordings, tmp_path / "run", CPU)
    with pytest.raises(DataError, match="not used in training"):
        export(tokenizer_run, transformer_run, recordings, tmp_path / "checkpoint", Sampling())
    assert list(tmp_path.iterdir()) == []


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
