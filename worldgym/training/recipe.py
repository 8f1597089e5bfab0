"""Recipes: architectures and settings of both parts of a world model, as one JSON file beside a checkpoint's weights.

    {"tokenizer":   {"model": {"type": "compact", ...}, "job": {...}, "training": {...}},
     "transformer": {"model": {...},                    "job": {...}, "training": {...}}}

``model`` holds the entries of the architecture's configuration, ``job`` those of :class:`TokenizerTrainingConfig` or
:class:`TransformerTrainingConfig`, ``training`` those of :class:`TrainingConfig`. Entries that are left out take their
defaults.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldgym.config import TokenizerConfig, TransformerConfig, from_dict, to_dict, tokenizer_from_dict
from worldgym.errors import ConfigError
from worldgym.storage.files import read_json
from worldgym.training.loop import TrainingConfig
from worldgym.training.tokenizer import TokenizerTrainingConfig
from worldgym.training.transformer import TransformerTrainingConfig

RECIPE = "recipe.json"


@dataclass(frozen=True)
class TokenizerRecipe:
    """How a tokenizer is built and trained."""

    model: TokenizerConfig
    """Architecture."""
    job: TokenizerTrainingConfig
    """How clips are sampled."""
    training: TrainingConfig
    """Settings of the loop."""


@dataclass(frozen=True)
class TransformerRecipe:
    """How a transformer is built and trained."""

    model: TransformerConfig
    """Architecture."""
    job: TransformerTrainingConfig
    """How sequences are sampled, and their losses."""
    training: TrainingConfig
    """Settings of the loop."""


@dataclass(frozen=True)
class Recipe:
    """How both parts of a world model are built and trained."""

    tokenizer: TokenizerRecipe
    transformer: TransformerRecipe


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Args:
        path: a JSON file.

    Raises:
        ConfigError: if the file is missing or not JSON; otherwise it names each entry that is missing, unknown or of
            the wrong type.
    """
    return recipe_from_dict(read_json(path), str(path))


def recipe_from_dict(values: Any, where: str) -> Recipe:
    """Inverse of :func:`recipe_to_dict`.

    Args:
        values: the JSON values.
        where: name of the recipe in error messages.

    Raises:
        ConfigError: as :func:`load_recipe`.
    """
    if not isinstance(values, Mapping) or not {"tokenizer", "transformer"} <= values.keys():
        raise ConfigError(f"{where}: expected a recipe with the entries 'tokenizer' and 'transformer', got {values!r}")
    tokenizer, transformer = (_part(values[name], f"{where}: {name}") for name in ("tokenizer", "transformer"))
    tokenizer["model"] = tokenizer_from_dict(tokenizer["model"], f"{where}: tokenizer: model")
    return Recipe(
        from_dict(TokenizerRecipe, tokenizer, f"{where}: tokenizer"),
        from_dict(TransformerRecipe, transformer, f"{where}: transformer"),
    )


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain JSON types."""
    values = dataclasses.asdict(recipe)
    values["tokenizer"]["model"] = to_dict(recipe.tokenizer.model)
    return values


def _part(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping) or not isinstance(values.get("model"), Mapping):
        raise ConfigError(f"{where}: expected an object with the entries 'model', 'job' and 'training', got {values!r}")
    return dict(values)
