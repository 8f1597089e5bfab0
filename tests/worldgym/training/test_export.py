import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from worldgym import WorldModel
from worldgym.config import Sampling
from worldgym.data.recordings import Recordings
from worldgym.errors import CheckpointError, ConfigError, DataError
from worldgym.reports.commands import training_commands
from worldgym.runs.checkpoint import load_state, newest_checkpoint, save_state
from worldgym.training.export import _with_other_episodes, export
from worldgym.training.recipe import Recipe, load_recipe
from worldgym.training.runs import train_tokenizer, train_transformer
from worldgym.training.trained import load_world_model_run

CPU = torch.device("cpu")


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


def test_training_episodes_are_not_held_out(
    recipe: Recipe, recordings: Recordings, tokenizer_run: Path, transformer_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="not used in training"):
        train_tokenizer(recipe.tokenizer, recordings, recordings, tmp_path / "run", CPU)
    with pytest.raises(DataError, match="not used in training"):
        export(tokenizer_run, transformer_run, recordings, tmp_path / "checkpoint", Sampling())
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_trained_further(
    exported: Path, recordings: Recordings, held_out: Recordings, recipe: Recipe, tmp_path: Path
) -> None:
    first, run, second = exported, tmp_path / "run", tmp_path / "second"
    train_transformer(recipe.transformer, first, recordings, held_out, run, CPU, initial=str(first))
    export(first, run, held_out, second, Sampling())
    old, new = (WorldModel.from_pretrained(folder) for folder in (first, second))
    for name, value in old.tokenizer.state_dict().items():
        torch.testing.assert_close(new.tokenizer.state_dict()[name], value)
    changed = (new.transformer.llm.lm_head.weight - old.transformer.llm.lm_head.weight).abs().mean()
    assert 0 < changed < 0.05  # it started from the old weights
    trained_on = old.config.training_data["trained_on"]
    assert new.config.training_data["earlier"] == [trained_on]
    assert load_recipe(second / "recipe.json") == recipe
    assert any("--initial EARLIER" in line for line in training_commands("second", new.config))


def test_training_starts_from_a_checkpoint_of_the_same_architecture_alone(
    exported: Path, recordings: Recordings, held_out: Recordings, recipe: Recipe, tmp_path: Path
) -> None:
    for part, train in (("tokenizer", train_tokenizer), ("transformer", train_transformer)):
        changes = {"latent_channels": 8} if part == "tokenizer" else {"mlp_size": 48}
        own = getattr(recipe, part)
        changed = dataclasses.replace(own, model=dataclasses.replace(own.model, **changes))
        before = () if part == "tokenizer" else (exported,)
        with pytest.raises(ConfigError, match=f"expected the same .*{part}.*{next(iter(changes))}"):
            train(changed, *before, recordings, held_out, tmp_path / part, CPU, initial=str(exported))  # type: ignore[operator]


def test_earlier_training_data_is_named_once() -> None:
    one, more, other = ({"digests": digests} for digests in ("a b", "a b c", "d"))
    undated: dict[str, str] = {}
    assert _with_other_episodes([more, one, undated, other, other]) == [more, undated, other]
    assert _with_other_episodes([one, more]) == [one, more]
