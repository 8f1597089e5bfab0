"""``worldgym train --recipe``: the tokenizer, then the transformer."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from worldgym.cli import main
from worldgym.cli.export import parse
from worldgym.runs.checkpoint import load_state, newest_checkpoint


def _command(recipe: Path, data: Path, out: Path, more: str = "") -> list[str]:
    sources = f"--data {data}/train --held-out {data}/held-out --out {out}"
    return f"train --recipe {recipe} {sources} --device cpu --steps 2 {more}".split()


def test_both_parts_are_trained_and_resumed_exactly(
    recipe_file: Path,
    toy_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("worldgym.training.transformer.HEAD_ROWS", 4)
    out, broken = tmp_path / "out", tmp_path / "broken"
    assert main(_command(recipe_file, toy_data, out)) == 0
    next_command = capsys.readouterr().out.partition("worldgym export ")[2].split()
    assert parse(next_command).transformer == out / "transformer"
    shutil.copytree(out / "tokenizer", broken / "tokenizer")  # stopped between the parts
    assert main(_command(recipe_file, toy_data, broken)) == 2
    assert "add --resume" in capsys.readouterr().err
    assert main(_command(recipe_file, toy_data, broken, "--resume")) == 0
    for part in ("tokenizer", "transformer"):
        expected, found = (load_state(newest_checkpoint(folder / part))[0] for folder in (out, broken))
        assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        ({"action_dim": 1}, "", "expected an action_dim of at least 2, which its actions have"),
        ({"segment_length": 30}, "", "segment_length: expected 3 to 12 frames"),
        ({}, "--initial metaworld-64", "metaworld-64: expected the same transformer as here"),
        ({}, "--resume", "nothing to resume"),
    ],
)
def test_what_a_transformer_cannot_use_is_found_before_the_tokenizer_is_trained(
    change: dict[str, Any],
    more: str,
    message: str,
    recipe_file: Path,
    toy_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = json.loads(recipe_file.read_text())
    recipe["transformer"]["job"] |= change
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    assert main(_command(tmp_path / "recipe.json", toy_data, tmp_path / "out", more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--recipe"]) == 0
    shown = capsys.readouterr().out
    assert "\nvp2-robodesk-64-act-cond\n    Fine-tune on VP2's RoboDesk" in shown
    assert "\nmetaworld-64\n" in shown
