"""Runs that train a tokenizer or a transformer by a recipe. A run's ``config.json`` describes its model and data."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from worldgym.config import TokenizerConfig, WorldModelConfig, to_dict
from worldgym.data.mixture import with_action_dim
from worldgym.data.recordings import Recordings
from worldgym.data.summary import check_held_out, summarise
from worldgym.errors import ConfigError
from worldgym.isolation import torch_defaults
from worldgym.parallel import is_main, parts
from worldgym.reward_scale import RewardScale
from worldgym.tokenizer import build_tokenizer
from worldgym.tokenizer.base import Tokenizer
from worldgym.training.adversarial import Adversary
from worldgym.training.checks import check_recordings, warn_of_large_actions
from worldgym.training.heads import initialise_heads
from worldgym.training.initial import Start, initialise_from_codebooks, start_from
from worldgym.training.loop import train
from worldgym.training.lora import add_adapters
from worldgym.training.recipe import Recipe, TokenizerRecipe, TransformerRecipe
from worldgym.training.refit import refit_heads
from worldgym.training.seeding import seeded_rng
from worldgym.training.tokenizer import TokenizerTrainer
from worldgym.training.trained import TrainedTokenizer, check_finished, load_tokenizer_run
from worldgym.training.transformer import TransformerTrainer, check_segment_length
from worldgym.transformer.transformer import Transformer


@torch_defaults()
def train_tokenizer(
    recipe: TokenizerRecipe,
    recordings: Recordings,
    held_out: Recordings,
    folder: Path,
    device: torch.device,
    perceptual: nn.Module | None = None,
    resume: bool = False,
    initial: str | None = None,
) -> int:
    """Train a tokenizer, or resume.

    Args:
        recipe: how it is built and trained.
        recordings: to train on.
        held_out: to validate on.
        folder: of the run.
        device: to train on.
        perceptual: distance between images, such as :class:`worldgym.metrics.lpips.LPIPS`; see
            :func:`worldgym.training.losses.tokenizer_loss`.
        resume: continue the run in ``folder``.
        initial: checkpoint whose weights training starts from; None starts from new ones.

    Returns:
        The number of updates done; fewer than the recipe's if the run was stopped.

    Raises:
        ConfigError: if the recipe does not fit the recordings.
        DataError: if the recordings are not held out or too short. Else as :func:`worldgym.training.loop.train`.
    """
    data = summarise(recordings)
    check_held_out(data, held_out)
    if recipe.job.fixed_codes and initial is None:
        raise ConfigError("fixed_codes: expected --initial, the checkpoint whose codebooks stay, got none")
    with seeded_rng(recipe.training.seed, torch.device("cpu")):
        model = build_tokenizer(recipe.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    started = None if initial is None else _start_from(initial, model, recipe.model, held_out)
    perceptual = None if perceptual is None else perceptual.to(device)
    batch_size = recipe.training.batch_size
    adversary = _adversary(recipe, device)
    trainer = TokenizerTrainer(model.to(device), recipe.job, batch_size, recordings, held_out, perceptual, adversary)
    description = {
        "tokenizer": to_dict(recipe.model),
        "job": dataclasses.asdict(recipe.job),
        "perceptual": None if perceptual is None else type(perceptual).__name__,
        "initial": None if started is None else started.about,
        "data": data,
    }
    return train(trainer, recipe.training, folder, description, resume)


@torch_defaults()
def train_transformer(
    recipe: TransformerRecipe,
    tokenizer_run: Path,
    recordings: Recordings,
    held_out: Recordings,
    folder: Path,
    device: torch.device,
    action_names: tuple[str, ...] = (),
    resume: bool = False,
    initial: str | None = None,
    accumulate: int = 1,
    heads_only: bool = False,
) -> int:
    """Train a transformer on the codes of a trained tokenizer, or resume.

    Args:
        recipe: how it is built and trained.
        tokenizer_run: folder of the tokenizer's run.
        recordings: to train on.
        held_out: to validate on.
        folder: of the run.
        device: to train on.
        action_names: names of the actions, for the checkpoint; none if they are unknown.
        resume: continue the run in ``folder``.
        initial: checkpoint whose weights training starts from; None starts from new ones. Heads that it does not have
            start anew.
        accumulate: as for :func:`worldgym.training.loop.train`.
        heads_only: fit the heads to the transformer of ``initial``, which stays as it is.

    Returns:
        The number of updates done; fewer than the recipe's if the run was stopped.

    Raises:
        CheckpointError: if the tokenizer's run is not finished.
        ConfigError: if options exclude each other. Else as :func:`train_tokenizer`.
    """
    _check_options(recipe, initial, accumulate, heads_only)
    check_finished(tokenizer_run)
    if (action_dim := recipe.job.action_dim) is not None:
        action_names = action_names if action_dim == recordings.action_dim else ()
        recordings, held_out = (with_action_dim(part, action_dim) for part in (recordings, held_out))
    data = summarise(recordings)
    check_held_out(data, held_out)
    if is_main():
        warn_of_large_actions(recordings)
    trained = load_tokenizer_run(tokenizer_run)
    rewards, *events = _recorded_values(recordings)
    config = WorldModelConfig(
        tokenizer=trained.config,
        transformer=recipe.model,
        action_dim=recordings.action_dim,
        reward=True,
        action_names=action_names,
        frame_skip=data["frame_skip"],
        max_episode_steps=max(episode.info.max_steps or len(episode) for episode in recordings.episodes),
        tasks=recordings.tasks,
        success=any(episode.successes.any() for episode in recordings.episodes),
        slides=recipe.job.later_share > 0,
        action_space=recordings.action_space,
        reward_bins=RewardScale.of(rewards, "symlog", recipe.job.reward_bins).bins,
        termination=any(episode.info.terminated for episode in recordings.episodes),
        frame_error=True,
        goal_conditioned=recipe.job.goal_conditioned,
    )
    with seeded_rng(recipe.training.seed, torch.device("cpu")):
        model = Transformer.build(config)
        initialise_from_codebooks(model, trained.tokenizer)
    initialise_heads(model, rewards, config.reward_scale, *events)
    started = None if initial is None else _start_from(initial, model, config, held_out)
    if started is not None and (heads_only or recipe.job.lora_rank):
        _check_codes(started, trained)
    if started is not None and heads_only:
        _check_inputs(started, config)
    if recipe.job.lora_rank:
        with seeded_rng(recipe.training.seed, torch.device("cpu")):
            add_adapters(model, recipe.job.lora_rank)
    modules, batch_size = (model.to(device), trained.tokenizer.to(device)), recipe.training.batch_size
    trainer = TransformerTrainer(*modules, config, recipe.job, batch_size, recordings, held_out)
    description = {
        "world_model": to_dict(config),
        "job": dataclasses.asdict(recipe.job),
        "tokenizer_digest": trained.digest,
        "initial": None if started is None else started.about,
        "data": data,
    }
    if heads_only:
        return refit_heads(trainer, recipe.training, folder, description, resume)
    return train(trainer, recipe.training, folder, description, resume, accumulate)


def check_recipe(
    recipe: Recipe, recordings: Recordings, held_out: Recordings, initial: str | None, accumulate: int = 1
) -> None:
    """Check before a tokenizer is trained whether a transformer can be trained on its codes.

    Args:
        recipe: of both.
        recordings: to train on.
        held_out: to validate on.
        initial: checkpoint whose weights the transformer starts from, if any.
        accumulate: as for :func:`train_transformer`.

    Raises:
        ConfigError: as :func:`train_transformer`.
    """
    own = recipe.transformer
    _check_options(own, initial, accumulate, heads_only=False)
    parts(own.training.batch_size, accumulate)
    if own.job.action_dim is not None:
        recordings, held_out = (with_action_dim(part, own.job.action_dim) for part in (recordings, held_out))
    goal, slides = own.job.goal_conditioned, own.job.later_share > 0
    config = WorldModelConfig(
        recipe.tokenizer.model, own.model, recordings.action_dim, True, goal_conditioned=goal, slides=slides
    )
    check_segment_length(own.job, config)
    for part in (recordings, held_out):
        check_recordings(part, config.resolution, config.action_dim)
    if initial is not None:
        with torch_defaults("meta"):
            model = Transformer.build(config)
        start_from(initial, model, config, held_out, assign=True)


def _check_options(recipe: TransformerRecipe, initial: str | None, accumulate: int, heads_only: bool) -> None:
    """Raise ConfigError for options that exclude each other."""
    rank = recipe.job.lora_rank
    if rank and initial is None:
        raise ConfigError(
            f"lora_rank: expected 0 for a transformer with new weights, got {rank}: adapters change a trained one, so "
            "give it by --initial"
        )
    if not heads_only:
        return
    if initial is None:
        raise ConfigError("heads_only: expected --initial, the checkpoint whose heads are fitted, got none")
    if rank or accumulate > 1:
        raise ConfigError(
            f"heads_only: expected lora_rank 0 and accumulate 1, because no gradient is computed, got {rank} and "
            f"{accumulate}"
        )


def _check_codes(started: Start, trained: TrainedTokenizer) -> None:
    """Raise ConfigError if weights that stay as they are would get the codes of another tokenizer."""
    name = started.about["checkpoint"]
    if trained.codes != started.about["tokenizer_digest"]:
        raise ConfigError(
            f"heads_only and lora_rank: expected the tokenizer of {name}, whose codes its weights understand, or one "
            f"that was adapted from it with --job.fixed-codes, got another one: give --tokenizer {name}"
        )


def _check_inputs(started: Start, config: WorldModelConfig) -> None:
    """Raise ConfigError if a transformer that stays as it is would get other inputs."""
    inputs = "action_dim", "slides", "goal_conditioned", "context_length"
    other = [name for name in inputs if getattr(started.config, name) != getattr(config, name)]
    if other:
        raise ConfigError(
            f"heads_only: expected {', '.join(other)} as in {started.about['checkpoint']}, whose transformer stays as "
            "it is: use its recipe and recordings like its own"
        )


def _adversary(recipe: TokenizerRecipe, device: torch.device) -> Adversary | None:
    job, training = recipe.job, recipe.training
    if not job.adversarial_weight:
        return None
    with seeded_rng(training.seed, torch.device("cpu")):
        adversary = Adversary(
            recipe.model.resolution,
            job.adversarial_weight,
            job.disc_start,
            training.learning_rate,
            training.schedule,
            training.clip_norm,
        )
    return adversary.to(device)


def _recorded_values(recordings: Recordings) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, successes and terminations of all steps."""
    episodes = recordings.episodes
    arrays = ([getattr(episode, name) for episode in episodes] for name in ("rewards", "successes", "terminations"))
    rewards, successes, terminations = (torch.from_numpy(np.concatenate(parts)) for parts in arrays)
    return rewards, successes, terminations


def _start_from(
    initial: str, model: Tokenizer | Transformer, config: TokenizerConfig | WorldModelConfig, held_out: Recordings
) -> Start:
    """As :func:`start_from`; says so in a line on stderr."""
    started = start_from(initial, model, config, held_out)
    if is_main():
        print(f"start from {initial}: {'; '.join(started.about['changes']) or 'all weights'}", file=sys.stderr)
    return started
