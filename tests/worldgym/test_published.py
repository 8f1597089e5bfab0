"""Saving in the published layout."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from worldgym.config import WorldModelConfig
from worldgym.errors import ConfigError
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel

FILES = [
    "tokenizer/config.json",
    "tokenizer/diffusion_pytorch_model.safetensors",
    "transformer/config.json",
    "transformer/model.safetensors",
]
VERSION = "_diffusers_version"  # of the writer


def without_actions(model: WorldModel, **changes: object) -> WorldModel:
    """The language model alone, beside the same tokenizer."""
    config = dataclasses.replace(model.config, action_dim=0, reward=False, **changes)  # type: ignore[arg-type]
    transformer = Transformer.build(config)
    transformer.llm.load_state_dict(model.transformer.llm.state_dict())
    return WorldModel(config, model.tokenizer, transformer)


def test_a_published_folder_comes_back_as_it_was(parity: Path, tmp_path: Path) -> None:
    model = WorldModel.from_pretrained(parity)
    model.save_pretrained(tmp_path / "again", layout="published")
    found = sorted(str(path.relative_to(tmp_path / "again")) for path in (tmp_path / "again").rglob("*.*"))
    assert found == FILES
    for name in FILES:
        if name.endswith(".safetensors"):
            earlier, later = load_file(parity / name), load_file(tmp_path / "again" / name)
            assert earlier.keys() == later.keys()
            assert all(torch.equal(earlier[key], later[key]) for key in earlier)
            with safe_open(tmp_path / "again" / name, "pt") as file:
                assert file.metadata()["format"] == "pt"  # without which Hugging Face's loaders refuse a file
    earlier, later = (json.loads((folder / FILES[0]).read_text()) for folder in (parity, tmp_path / "again"))
    assert later == {name: value for name, value in earlier.items() if name != VERSION}
    again = WorldModel.from_pretrained(tmp_path / "again")
    assert again.config == model.config
    assert again.fingerprint() == model.fingerprint()


def test_what_the_published_layout_holds_does_not_change_a_rollout(
    parity: Path, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    WorldModel.from_pretrained(parity).save_pretrained(tmp_path, layout="published")
    frames = (expected["video"][:, :2] * 255).round().to(torch.uint8).movedim(2, -1)
    made = [
        WorldModel.from_pretrained(folder).rollout(frames, expected["action"][:, 1:4], top_k=1)
        for folder in (parity, tmp_path)
    ]
    assert torch.equal(made[0].tokens, made[1].tokens)


def test_hugging_face_reads_the_language_model(parity: Path, expected: dict[str, torch.Tensor], tmp_path: Path) -> None:
    model = without_actions(WorldModel.from_pretrained(parity))
    model.save_pretrained(tmp_path, layout="published")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "transformer")
    tokens = expected["tokens"]
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model.transformer(tokens).logits, atol=1e-4, rtol=1e-4)
    assert WorldModel.from_pretrained(tmp_path).config == model.config


def test_goals_and_half_precision(parity: Path, tmp_path: Path) -> None:
    model = without_actions(WorldModel.from_pretrained(parity), goal_conditioned=True)
    model.save_pretrained(tmp_path / "mine-goal-cond", dtype="float16", layout="published")
    assert WorldModel.from_pretrained(tmp_path / "mine-goal-cond").config.goal_conditioned
    stored = load_file(tmp_path / "mine-goal-cond" / FILES[3])
    assert stored["lm_head.weight"].dtype == torch.float16
    assert all(not name.startswith("llm.") for name in stored)


def test_saving_again_replaces_the_weights_and_keeps_other_files(parity: Path, tmp_path: Path) -> None:
    model = WorldModel.from_pretrained(parity)
    model.save_pretrained(tmp_path, layout="published")
    (tmp_path / "tokenizer" / "notes.txt").write_text("kept")
    other = without_actions(model)
    other.save_pretrained(tmp_path, layout="published")
    assert WorldModel.from_pretrained(tmp_path).config == other.config
    assert (tmp_path / "tokenizer" / "notes.txt").read_text() == "kept"


def test_what_the_published_layout_cannot_hold_is_named(
    make_model: Callable[..., WorldModel], tiny_checkpoint: Path, tiny_config: WorldModelConfig, tmp_path: Path
) -> None:
    ours = WorldModel.from_pretrained(tiny_checkpoint)
    with pytest.raises(ConfigError, match="cannot hold a tokenizer of CompactTokenizerConfig"):
        ours.save_pretrained(tmp_path / "new", layout="published")
    model = make_model(success=True, termination=True, reward_bins=(-1.0, 0.0, 1.0), reward_transform="identity")
    with pytest.raises(ConfigError) as caught:
        model.save_pretrained(tmp_path / "new", layout="published")
    for reason in ("32 groups", "a success head", "a termination head", "rewards in bins", "under symlog"):
        assert reason in str(caught.value)
    with pytest.raises(ConfigError, match="a reward head without actions"):
        make_model(action_dim=0).save_pretrained(tmp_path / "new", layout="published")
    with pytest.raises(ConfigError, match="layout: expected 'worldgym' or 'published', got 'theirs'"):
        model.save_pretrained(tmp_path / "new", layout="theirs")  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()
