"""Recipes: architectures and settings of both parts of a world model, as one JSON file beside a checkpoint's weights.

    {"about":       "In a sentence. Then where the figures come from.",
     "tokenizer":   {"model": {"type": "compact", ...}, "job": {...}, "training": {...}, "initial": "a checkpoint"},
     "transformer": {"model": {...},                    "job": {...}, "training": {...}, "initial": "a checkpoint"}}

``model`` holds the entries of the architecture's configuration, ``job`` those of :class:`TokenizerTrainingConfig` or
:class:`TransformerTrainingConfig`, ``training`` those of :class:`TrainingConfig`. ``initial`` names the checkpoint
whose weights training starts from. Entries that are left out take their defaults.

The recipes of the paper's models are in the folder ``recipes``.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldgym.checkpoints import shipped
from worldgym.config import TokenizerConfig, TransformerConfig, from_dict, to_dict, tokenizer_from_dict
from worldgym.errors import ConfigError, nearest
from worldgym.storage.files import read_json
from worldgym.training.loop import TrainingConfig
from worldgym.training.tokenizer import TokenizerTrainingConfig
from worldgym.training.transformer import TransformerTrainingConfig

RECIPE = "recipe.json"
FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class TokenizerRecipe:
    """How a tokenizer is built and trained."""

    model: TokenizerConfig
    """Architecture."""
    job: TokenizerTrainingConfig
    """How clips are sampled."""
    training: TrainingConfig
    """Settings of the loop."""
    initial: str | None = None
    """Checkpoint whose weights training starts from; None starts from new ones."""


@dataclass(frozen=True)
class TransformerRecipe:
    """How a transformer is built and trained."""

    model: TransformerConfig
    """Architecture."""
    job: TransformerTrainingConfig
    """How sequences are sampled, and their losses."""
    training: TrainingConfig
    """Settings of the loop."""
    initial: str | None = None
    """Checkpoint whose weights training starts from; None starts from new ones."""


@dataclass(frozen=True)
class Recipe:
    """How both parts of a world model are built and trained."""

    tokenizer: TokenizerRecipe
    transformer: TransformerRecipe
    about: str = ""
    """What it trains, in a sentence; then where its figures come from."""


def recipe_names() -> list[str]:
    """Names of the recipes that come with worldgym: those of the paper's models, and those of shipped checkpoints."""
    return sorted(path.stem for path in FOLDER.glob("*.json")) + sorted(shipped())


def find_recipe(name: str) -> Recipe:
    """Read a recipe by its name, or from a file.

    Args:
        name: one of :func:`recipe_names`, or the path of a JSON file.

    Raises:
        ConfigError: as :func:`load_recipe`; a misspelt name gets a suggestion.
    """
    known = {path.stem: path for path in FOLDER.glob("*.json")}
    known |= {checkpoint: folder / RECIPE for checkpoint, folder in shipped().items()}
    path = known.get(name, Path(name))
    if not path.exists() and not path.suffix:
        raise ConfigError(f"no recipe {name!r}: expected a name or a JSON file; {nearest(name, known)}")
    return load_recipe(path)


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
        str(values.get("about", "")),
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
