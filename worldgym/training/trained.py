"""Reading trained tokenizers and transformers from the folders of their runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from worldgym.checkpoints import shipped
from worldgym.config import TokenizerConfig, WorldModelConfig, from_dict, to_dict, tokenizer_from_dict
from worldgym.errors import CheckpointError, ConfigError
from worldgym.isolation import torch_defaults
from worldgym.pretrained import TOKENIZER, load, read_config
from worldgym.runs.checkpoint import checkpoint_step, load_state, newest_checkpoint
from worldgym.runs.folder import CONFIG
from worldgym.storage.files import read_json
from worldgym.storage.tensors import Tensors, digest, select_prefix
from worldgym.tokenizer import build_tokenizer
from worldgym.tokenizer.base import Tokenizer
from worldgym.training.loop import TrainingConfig
from worldgym.training.recipe import RECIPE, Recipe, recipe_from_dict
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel


class TrainedTokenizer(NamedTuple):
    """The tokenizer of a run."""

    config: TokenizerConfig
    tokenizer: Tokenizer
    """On the CPU, in evaluation mode."""
    digest: str
    """Of its weights."""


class TrainedWorldModel(NamedTuple):
    """The world model of two runs."""

    world_model: WorldModel
    """On the CPU."""
    recipe: Recipe
    """How it was trained."""
    data: dict[str, Any]
    """Summary of the recordings that the transformer was trained on."""
    tokenizer_data: dict[str, Any]
    """Summary of the recordings that the tokenizer was trained on."""
    earlier: list[dict[str, Any]]
    """Summaries of the recordings that the checkpoints were trained on from whose weights training started."""


def find_checkpoint(source: Path) -> Path | None:
    """The folder of a checkpoint, by its shipped name or folder; None for anything else, such as a run."""
    folder = shipped().get(str(source), source)
    return folder if (folder / TOKENIZER).is_file() else None


def check_finished(run: Path) -> None:
    """Check that the newest checkpoint of a run is of its last step. What is no run but a checkpoint is finished.

    Raises:
        CheckpointError: otherwise.
    """
    if find_checkpoint(run) is not None:
        return
    settings = from_dict(TrainingConfig, _object(run, "training"), f"{run}: training")
    step = checkpoint_step(run)
    if step < settings.steps:
        raise CheckpointError(
            f"{run}: expected a finished run, got step {step} of {settings.steps}: finish it with the same command and "
            "--resume"
        )


@torch_defaults()
def load_tokenizer_run(folder: Path) -> TrainedTokenizer:
    """Load the tokenizer of a run's newest checkpoint.

    Args:
        folder: of the run; or the folder or shipped name of a checkpoint.

    Raises:
        CheckpointError: if the folder holds no run of a tokenizer, or a damaged one.
    """
    if (checkpoint := find_checkpoint(folder)) is not None:
        parts = load(checkpoint)
        return TrainedTokenizer(parts.config.tokenizer, parts.tokenizer.eval(), digest(parts.tokenizer.state_dict()))
    config = tokenizer_from_dict(_object(folder, "tokenizer"), f"{folder}: tokenizer")
    weights = _weights(folder)
    tokenizer = build_tokenizer(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _load_weights(tokenizer, weights, folder)
    return TrainedTokenizer(config, tokenizer.eval(), digest(weights))


@torch_defaults()
def load_world_model_run(tokenizer_run: Path, transformer_run: Path) -> TrainedWorldModel:
    """Load the world model of two runs.

    Args:
        tokenizer_run: folder of the tokenizer's run, or a checkpoint; see :func:`load_tokenizer_run`.
        transformer_run: folder of the transformer's run.

    Raises:
        CheckpointError: if a folder holds no such run, or the transformer was trained on another tokenizer's codes.
    """
    trained = load_tokenizer_run(tokenizer_run)
    if _entry(transformer_run, "tokenizer_digest") != trained.digest:
        raise CheckpointError(
            f"{transformer_run}: expected a transformer that was trained on the codes of {tokenizer_run} as it is now, "
            "got one of another tokenizer: give the run it was trained on, or train the transformer again"
        )
    config = from_dict(WorldModelConfig, _object(transformer_run, "world_model"), f"{transformer_run}: world_model")
    transformer = Transformer.build(config)
    _load_weights(transformer, _weights(transformer_run), transformer_run)
    parts = {"transformer": _part(transformer_run, to_dict(config.transformer))}
    if (checkpoint := find_checkpoint(tokenizer_run)) is None:
        parts["tokenizer"] = _part(tokenizer_run, to_dict(trained.config))
        tokenizer_data, earlier = _object(tokenizer_run, "data"), _earlier(tokenizer_run, transformer_run)
    else:
        parts["tokenizer"] = read_json(checkpoint / RECIPE)["tokenizer"]
        known = read_config(checkpoint).training_data
        tokenizer_data = known.get("tokenizer_trained_on", known["trained_on"])
        earlier = _earlier(transformer_run) or list(known.get("earlier", ()))
    return TrainedWorldModel(
        WorldModel(config, trained.tokenizer, transformer),
        recipe_from_dict(parts, str(transformer_run)),
        _object(transformer_run, "data"),
        tokenizer_data,
        earlier,
    )


def _part(run: Path, model: dict[str, Any]) -> dict[str, Any]:
    """A run's part of a recipe."""
    return {"model": model, "job": _object(run, "job"), "training": _object(run, "training")}


def _earlier(*runs: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for run in runs:
        initial = read_json(run / CONFIG).get("initial")
        found += [summary for summary in (initial or {}).get("trained_on", ()) if summary not in found]
    return found


def _object(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object in a run's ``config.json``."""
    value = _entry(folder, name)
    if not isinstance(value, dict):
        raise CheckpointError(f"{folder / CONFIG}: {name}: expected a JSON object, got {value!r}")
    return value


def _entry(folder: Path, name: str) -> Any:
    """An entry of a run's ``config.json``."""
    try:
        values = read_json(folder / CONFIG)
    except ConfigError as error:
        raise CheckpointError(f"{folder} does not hold a training run: {error}") from error
    if name not in values:
        raise CheckpointError(
            f"{folder / CONFIG}: expected a run whose settings contain {name!r}, got {sorted(values)}"
        )
    return values[name]


def _weights(folder: Path) -> Tensors:
    return select_prefix("model", load_state(newest_checkpoint(folder))[0])


def _load_weights(model: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"the weights of {folder} do not fit its {CONFIG}: {error}") from error
