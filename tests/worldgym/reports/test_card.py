import dataclasses
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import worldgym
import worldgym.checkpoints
from worldgym.config import CompactTokenizerConfig, TransformerConfig, WorldModelConfig, from_dict
from worldgym.data.recordings import Recordings
from worldgym.data.summary import summarise
from worldgym.errors import CheckpointError, ConfigError, StorageError
from worldgym.reports.card import checkpoint_table, learned_env_id, parameters, render_card, write_figures
from worldgym.storage.files import read_json

SHIPPED = worldgym.checkpoints.path(worldgym.checkpoints.DEFAULT)


def figures(psnr: float = 30.0, rewards: float = 0.5) -> dict[str, Any]:
    scores = {"psnr": [psnr], "reward_r2": [rewards]}
    part = {"segments": 3, "sampled": scores, "greedy": scores, "last_frame": {"psnr": [psnr]}}
    return {
        **{name: f"the {name}" for name in ("date", "machine", "commit", "command")},
        **{"horizon": 1, "first_steps": 5, "by_task": {"all": part, "hammer": part}},
        "perplexity": {"context": 2.0, "dynamics": 3.0},
    }


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint whose files a test may change, with an older card."""
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "tiny"))
    (copy / "README.md").write_text("an older card", encoding="utf-8")
    return copy


@pytest.fixture
def config(tiny_config: WorldModelConfig, synthetic_recordings: Path) -> WorldModelConfig:
    summary = summarise(Recordings(synthetic_recordings))
    return dataclasses.replace(tiny_config, training_data={"trained_on": summary, "held_out": summary})


def stored(folder: Path) -> WorldModelConfig:
    return from_dict(WorldModelConfig, read_json(folder / "config.json"), "config.json")


def test_the_shipped_card_is_rendered_from_the_shipped_configuration() -> None:
    card = render_card(SHIPPED.name, stored(SHIPPED), parameters(SHIPPED))
    assert card == (SHIPPED / "README.md").read_text(encoding="utf-8")


def test_the_configuration_and_the_card_hold_the_figures(checkpoint: Path, config: WorldModelConfig) -> None:
    write_figures(checkpoint, config, figures(psnr=31.5))
    assert stored(checkpoint).figures == figures(psnr=31.5)
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    assert "31.5" in card
    assert "R²" in card
    assert card == render_card("tiny", stored(checkpoint), parameters(checkpoint))
    assert worldgym.WorldModel.from_pretrained(checkpoint, device="cpu").config.figures == figures(psnr=31.5)


def test_figures_that_are_not_finite_are_null_in_json_and_a_dash_in_the_card(
    checkpoint: Path, config: WorldModelConfig
) -> None:
    write_figures(checkpoint, config, figures(psnr=math.inf, rewards=math.nan))
    text = (checkpoint / "config.json").read_text(encoding="utf-8")
    assert not re.search("Infinity|NaN", text)
    assert json.loads(text)["figures"]["by_task"]["all"]["sampled"] == {"psnr": [None], "reward_r2": [None]}
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"\b(inf|nan|None)\b", card)
    assert card == render_card("tiny", stored(checkpoint), parameters(checkpoint))


@pytest.mark.parametrize("failing", ["README.md", "config.json"])
def test_the_configuration_and_the_card_are_replaced_together_or_not_at_all(
    checkpoint: Path, config: WorldModelConfig, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.is_file()}
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target == checkpoint / failing and self.parent.name != ".earlier":
            raise PermissionError(13, "Permission denied", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="Permission denied"):
        write_figures(checkpoint, config, figures())
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.is_file()} == before
    assert [path.name for path in checkpoint.parent.iterdir()] == ["tiny"]


def test_a_card_that_cannot_be_rendered_leaves_the_configuration(checkpoint: Path, config: WorldModelConfig) -> None:
    before = (checkpoint / "config.json").read_bytes()
    with pytest.raises(ConfigError, match="expected training_data"):
        write_figures(checkpoint, config, {"by_task": {}})
    assert (checkpoint / "config.json").read_bytes() == before


@pytest.mark.parametrize("trained", [{}, {"trained_on": 3}, {"trained_on": {"environment": "Toy"}}])
def test_the_error_for_missing_notes_names_the_commands_that_write_them(trained: dict[str, object]) -> None:
    config = WorldModelConfig(CompactTokenizerConfig(), TransformerConfig(), training_data=trained)
    with pytest.raises(ConfigError, match=r"`worldgym export` writes it.*`worldgym evaluate`"):
        render_card("toy", config, {"tokenizer": 1, "transformer": 1})


def test_the_example_makes_the_environment_of_the_recordings(config: WorldModelConfig) -> None:
    trained = {**config.training_data["trained_on"], "environment": "Simulator-MetaWorld-v0"}
    for summary, env_id in ((trained, "WorldModel-MetaWorld-v0"), (config.training_data["held_out"], "WorldModel-v0")):
        data = {"trained_on": summary, "held_out": summary}
        measured = dataclasses.replace(config, training_data=data, figures=figures())
        card = render_card("tiny", measured, {"tokenizer": 1, "transformer": 1})
        assert f'gym.make("{env_id}", checkpoint="tiny")' in card


@pytest.mark.parametrize("simulator", ["Simulator-Unknown-v0", "CarRacing-v3", "", "WorldModel-MetaWorld-v0"])
def test_recordings_of_other_environments_are_opened_by_the_general_id(simulator: str) -> None:
    assert learned_env_id(simulator) == "WorldModel-v0"


def test_checkpoints_are_listed(checkpoint: Path) -> None:
    header, _, row = checkpoint_table([checkpoint]).splitlines()
    assert [cell.strip() for cell in header.strip("| ").split("|")][:3] == ["name", "tokenizer", "transformer"]
    assert row.startswith("| tiny")
    assert "hammer, plate-slide" in row


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"format": "worldgym", "format_version": 1, "tokenizer": 3})])
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json"):
        checkpoint_table([tmp_path])


def test_damaged_weights_are_named(checkpoint: Path) -> None:
    (checkpoint / "transformer.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match=r"transformer\.safetensors is damaged or not weights"):
        parameters(checkpoint)


def test_a_model_is_saved_as_valid_json_whatever_its_figures(checkpoint: Path, tmp_path: Path) -> None:
    model = worldgym.WorldModel.from_pretrained(checkpoint, device="cpu")
    config = dataclasses.replace(model.config, figures={"psnr": [math.inf, math.nan, 30.0]})
    worldgym.WorldModel(config, model.tokenizer, model.transformer).save_pretrained(tmp_path / "saved")
    assert stored(tmp_path / "saved").figures == {"psnr": [None, None, 30.0]}
