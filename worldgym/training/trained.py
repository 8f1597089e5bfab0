"""Reading trained tokenizers and transformers from the folders of their runs."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from worldgym.checkpoints import shipped
from worldgym.config import TokenizerConfig, WorldModelConfig, from_dict, to_dict, tokenizer_from_dict
from worldgym.errors import CheckpointError, ConfigError
from worldgym.isolation import torch_defaults
from worldgym.pretrained import PUBLISHED_TOKENIZER, TOKENIZER, load
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
    codes: str
    """Digest of the tokenizer whose codes it has: another one's if it was adapted from that with fixed codes."""
    training_data: Mapping[str, Any]
    """Of the checkpoint that it comes from; empty for that of a run."""


class TrainedWorldModel(NamedTuple):
    """The world model of two runs."""

    world_model: WorldModel
    """On the CPU."""
    recipe: Recipe | None
    """How it was trained; None where a part comes from a checkpoint without a recipe."""
    data: dict[str, Any]
    """Summary of the recordings that the transformer was trained on; empty where unknown, as of published models."""
    tokenizer_data: dict[str, Any]
    """Summary of the recordings that the tokenizer was trained on, likewise."""
    earlier: list[dict[str, Any]]
    """Summaries of the recordings that the checkpoints were trained on from whose weights training started."""


def find_checkpoint(source: Path) -> Path | None:
    """The folder of a checkpoint, by its shipped name or folder; None for anything else, such as a run."""
    folder = shipped().get(str(source), source)
    return folder if (folder / TOKENIZER).is_file() or (folder / PUBLISHED_TOKENIZER).is_file() else None


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
        identity = digest(parts.tokenizer.state_dict())
        return TrainedTokenizer(
            parts.config.tokenizer, parts.tokenizer.eval(), identity, identity, parts.config.training_data
        )
    config = tokenizer_from_dict(_object(folder, "tokenizer"), f"{folder}: tokenizer")
    weights = _weights(folder)
    tokenizer = build_tokenizer(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _load_weights(tokenizer, weights, folder)
    identity, job, initial = digest(weights), _object(folder, "job"), _entry(folder, "initial")
    codes = str(initial["tokenizer_digest"]) if job.get("fixed_codes") and initial else identity
    return TrainedTokenizer(config, tokenizer.eval(), identity, codes, {})


@torch_defaults()
def load_world_model_run(tokenizer_run: Path, transformer_run: Path) -> TrainedWorldModel:
    """Load the world model of two runs.

    Args:
        tokenizer_run: folder of the tokenizer's run, or a checkpoint; see :func:`load_tokenizer_run`.
        transformer_run: folder of the transformer's run; or a checkpoint whose tokenizer was adapted by the other run,
            with fixed codes.

    Raises:
        CheckpointError: if a folder holds no such run, or the transformer was trained on another tokenizer's codes.
    """
    trained = load_tokenizer_run(tokenizer_run)
    if (checkpoint := find_checkpoint(transformer_run)) is not None:
        return _with_adapted_tokenizer(checkpoint, trained, tokenizer_run)
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
        if (checkpoint / RECIPE).is_file():
            parts["tokenizer"] = read_json(checkpoint / RECIPE)["tokenizer"]
        known = trained.training_data
        tokenizer_data = known.get("tokenizer_trained_on", known.get("trained_on", {}))
        earlier = _earlier(transformer_run) or list(known.get("earlier", ()))
    return TrainedWorldModel(
        WorldModel(config, trained.tokenizer, transformer),
        recipe_from_dict(parts, str(transformer_run)) if "tokenizer" in parts else None,
        _object(transformer_run, "data"),
        tokenizer_data,
        earlier,
    )


def _with_adapted_tokenizer(checkpoint: Path, trained: TrainedTokenizer, run: Path) -> TrainedWorldModel:
    """The world model of a checkpoint with a tokenizer that started from its own and kept the codes."""
    parts = load(checkpoint)
    codes = digest(parts.tokenizer.state_dict())
    if trained.digest == codes or trained.codes != codes or trained.config != parts.config.tokenizer:
        raise CheckpointError(
            f"{checkpoint}: expected a tokenizer that was adapted to this transformer, got that of {run}: train it "
            f"with --initial {checkpoint} --job.fixed-codes and the sizes of the checkpoint, or train a transformer on "
            "its codes"
        )
    known = parts.config.training_data
    recipe = None
    if (checkpoint / RECIPE).is_file():
        values = read_json(checkpoint / RECIPE)
        values["tokenizer"] = _part(run, to_dict(trained.config))
        recipe = recipe_from_dict(values, str(checkpoint / RECIPE))
    return TrainedWorldModel(
        WorldModel(dataclasses.replace(parts.config, figures={}), trained.tokenizer, parts.transformer),
        recipe,
        known.get("trained_on", {}),
        _object(run, "data"),
        _earlier(run),
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
