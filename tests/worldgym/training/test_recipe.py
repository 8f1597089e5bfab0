import json
from pathlib import Path
from typing import Any

import pytest

import worldgym.checkpoints
from worldgym.errors import ConfigError
from worldgym.training.recipe import Recipe, load_recipe, recipe_from_dict, recipe_to_dict


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
