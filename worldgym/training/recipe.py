"""Recipes: all that decides a checkpoint but its recordings, as one JSON file beside its weights.

    {"tokenizer":   {"model": {"type": "compact", ...}, "job": {...}, "training": {...}},
     "transformer": {"model": {...},                    "job": {...}, "training": {...}}}

``model`` holds the entries of the architecture's configuration, ``job`` those of :class:`TokenizerTrainingConfig` or
:class:`TransformerTrainingConfig`, ``training`` those of :class:`TrainingConfig`; what is left out takes its default.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldgym.config import (
    Sampling,
    TokenizerConfig,
    TransformerConfig,
    WorldModelConfig,
    from_dict,
    to_dict,
    tokenizer_from_dict,
)
from worldgym.data.recordings import Recordings
from worldgym.data.summary import check_held_out, summarise
from worldgym.errors import CheckpointError, ConfigError
from worldgym.runs.checkpoint import checkpoint_step, load_state, newest_checkpoint
from worldgym.storage.files import atomic_json, read_json
from worldgym.storage.tensors import select_prefix
from worldgym.tokenizer import build_tokenizer
from worldgym.tokenizer.base import Tokenizer
from worldgym.training.initial import start_from_codebooks
from worldgym.training.loop import TrainingConfig, train
from worldgym.training.reward_head import start_from_rewards
from worldgym.training.tokenizer import TokenizerJob, TokenizerTrainingConfig
from worldgym.training.transformer import TransformerJob, TransformerTrainingConfig
from worldgym.transformer.llama import Transformer
from worldgym.world_model import WorldModel


@dataclass(frozen=True)
class TokenizerRecipe:
    """Architecture, losses and loop of a tokenizer."""

    model: TokenizerConfig
    job: TokenizerTrainingConfig
    training: TrainingConfig


@dataclass(frozen=True)
class TransformerRecipe:
    """Architecture, losses and loop of a transformer."""

    model: TransformerConfig
    job: TransformerTrainingConfig
    training: TrainingConfig


@dataclass(frozen=True)
class Recipe:
    """Both parts of a world model."""

    tokenizer: TokenizerRecipe
    transformer: TransformerRecipe


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; :class:`ConfigError` names what is missing, unknown or ill-typed."""
    return recipe_from_dict(read_json(path), str(path))


def recipe_from_dict(values: Any, where: str) -> Recipe:
    """Inverse of :func:`recipe_to_dict`."""
    if not isinstance(values, Mapping) or not {"tokenizer", "transformer"} <= values.keys():
        raise ConfigError(f"{where}: a recipe is an object with the entries 'tokenizer' and 'transformer'")
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


def train_tokenizer(
    recipe: TokenizerRecipe,
    recordings: Recordings,
    held_out: Recordings,
    folder: Path,
    device: torch.device,
    perceptual: nn.Module | None = None,
    resume: bool = False,
) -> int:
    """Run or resume the training of a tokenizer in ``folder``; the step reached.

    ``perceptual`` is as in :class:`TokenizerJob`; errors are those of :func:`worldgym.training.loop.train`.
    """
    data = summarise(recordings)
    check_held_out(data, held_out)
    torch.manual_seed(recipe.training.seed)
    model = build_tokenizer(recipe.model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    perceptual = None if perceptual is None else perceptual.to(device)
    job = TokenizerJob(model, recipe.job, recipe.training.batch_size, recordings, held_out, perceptual)
    about = {
        "tokenizer": to_dict(recipe.model),
        "job": dataclasses.asdict(recipe.job),
        "perceptual": None if perceptual is None else type(perceptual).__name__,
        "data": data,
    }
    return train(job, recipe.training, folder, about, resume)


def train_transformer(
    recipe: TransformerRecipe,
    tokenizer_run: Path,
    recordings: Recordings,
    held_out: Recordings,
    folder: Path,
    device: torch.device,
    action_names: tuple[str, ...] = (),
    resume: bool = False,
) -> int:
    """Run or resume, in ``folder``, the training of a transformer on the codes of a tokenizer's run; the step reached.

    Raises:
        CheckpointError: if the tokenizer's run is not finished.
    """
    check_finished(tokenizer_run)
    data = summarise(recordings)
    check_held_out(data, held_out)
    config, tokenizer, fingerprint = load_tokenizer_run(tokenizer_run)
    about = WorldModelConfig(
        tokenizer=config,
        transformer=recipe.model,
        action_dim=recordings.action_dim,
        reward=True,
        action_names=action_names,
        frame_skip=data["frame_skip"],
        max_episode_steps=max(len(episode) for episode in recordings.episodes),
        tasks=recordings.tasks,
    )
    torch.manual_seed(recipe.training.seed)
    model = Transformer(recipe.model, config.layout, about.action_dim, about.reward)
    start_from_codebooks(model, tokenizer)
    rewards = np.concatenate([episode.rewards for episode in recordings.episodes])
    start_from_rewards(model, torch.from_numpy(rewards), about.reward_transform)
    model = model.to(device)
    job = TransformerJob(
        model, tokenizer.to(device), about, recipe.job, recipe.training.batch_size, recordings, held_out
    )
    described = {
        "world_model": to_dict(about),
        "job": dataclasses.asdict(recipe.job),
        "tokenizer_fingerprint": fingerprint,
        "data": data,
    }
    return train(job, recipe.training, folder, described, resume)


def check_finished(run: Path) -> None:
    """Raise :class:`CheckpointError` unless a run's newest checkpoint is of its last step."""
    settings = from_dict(TrainingConfig, _described(run, "training"), f"{run}: training")
    step = checkpoint_step(run)
    if step < settings.steps:
        raise CheckpointError(
            f"{run} is at step {step} of {settings.steps}: finish it first, with the same command and --resume"
        )


def load_tokenizer_run(folder: Path) -> tuple[TokenizerConfig, Tokenizer, str]:
    """The tokenizer of a run's newest checkpoint, its configuration, and a fingerprint of its weights."""
    config = tokenizer_from_dict(_described(folder, "tokenizer"), f"{folder}: tokenizer")
    weights = _weights(folder)
    tokenizer = build_tokenizer(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _load(tokenizer, weights, folder)
    return config, tokenizer.eval(), _fingerprint(weights)


def load_world_model_run(tokenizer_run: Path, transformer_run: Path) -> tuple[WorldModel, Recipe, dict[str, Any]]:
    """The world model of two runs, the recipe that made it, and the summary of the recordings it was trained on.

    Raises:
        CheckpointError: if the transformer was trained on another tokenizer's codes.
    """
    tokenizer_config, tokenizer, fingerprint = load_tokenizer_run(tokenizer_run)
    if _entry(transformer_run, "tokenizer_fingerprint") != fingerprint:
        raise CheckpointError(
            f"{transformer_run} was not trained on the codes of {tokenizer_run} as it is now: "
            "give the run it was trained on, or train the transformer again"
        )
    about = from_dict(WorldModelConfig, _described(transformer_run, "world_model"), f"{transformer_run}: world_model")
    transformer = Transformer(about.transformer, about.layout, about.action_dim, about.reward)
    _load(transformer, _weights(transformer_run), transformer_run)
    parts = {
        name: {"model": model, "job": _described(run, "job"), "training": _described(run, "training")}
        for name, run, model in (
            ("tokenizer", tokenizer_run, to_dict(tokenizer_config)),
            ("transformer", transformer_run, to_dict(about.transformer)),
        )
    }
    model = WorldModel(about, tokenizer, transformer.eval())
    return model, recipe_from_dict(parts, str(transformer_run)), _described(transformer_run, "data")


def export(
    tokenizer_run: Path, transformer_run: Path, held_out: Recordings, folder: Path, sampling: Sampling
) -> WorldModelConfig:
    """Write a checkpoint in half precision from two runs, with its recipe; environments will draw by ``sampling``.

    The bank of start states is not written here: it belongs to the environments.

    Raises:
        CheckpointError: if one of the runs is not finished, or the transformer's belongs to another tokenizer.
    """
    check_finished(tokenizer_run)
    check_finished(transformer_run)
    model, recipe, trained = load_world_model_run(tokenizer_run, transformer_run)
    tokenizer_trained = _described(tokenizer_run, "data")
    for summary in (trained, tokenizer_trained):
        check_held_out(summary, held_out)
    training_data = {"trained_on": trained, "held_out": summarise(held_out)}
    if tokenizer_trained != trained:
        training_data["tokenizer_trained_on"] = tokenizer_trained
    config = dataclasses.replace(model.config, training_data=training_data, sampling=sampling)
    WorldModel(config, model.tokenizer, model.transformer).save_pretrained(folder, dtype=torch.float16)
    WorldModel.from_pretrained(folder)  # what half precision cannot hold is an error here, not at a user's
    atomic_json(folder / "recipe.json", recipe_to_dict(recipe))
    return config


def _described(folder: Path, name: str) -> dict[str, Any]:
    """An object within the ``config.json`` of a run."""
    value = _entry(folder, name)
    if not isinstance(value, dict):
        raise CheckpointError(f"{folder / 'config.json'}: {name} must be a JSON object, got {value!r}")
    return value


def _entry(folder: Path, name: str) -> Any:
    try:
        values = read_json(folder / "config.json")
    except ConfigError as error:
        raise CheckpointError(f"{folder} does not hold a training run: {error}") from error
    if name not in values:
        raise CheckpointError(f"{folder / 'config.json'} does not describe a training run with {name!r}")
    return values[name]


def _weights(folder: Path) -> dict[str, Tensor]:
    return select_prefix("model", load_state(newest_checkpoint(folder))[0])


def _load(model: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"the weights of {folder} do not fit its config.json: {error}") from error


def _fingerprint(weights: Mapping[str, Tensor]) -> str:
    """What the runs of transformers remember of their tokenizer: shorter than the digests of saved checkpoints."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
