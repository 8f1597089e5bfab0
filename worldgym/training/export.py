"""Making a checkpoint from the runs of a tokenizer and a transformer."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from worldgym.config import Sampling, WorldModelConfig
from worldgym.data.recordings import Recordings
from worldgym.data.summary import check_held_out, summarise
from worldgym.storage.files import atomic_folder, atomic_json
from worldgym.training.recipe import RECIPE, recipe_to_dict
from worldgym.training.trained import check_finished, find_checkpoint, load_world_model_run
from worldgym.world_model import WorldModel


def export(
    tokenizer_run: Path, transformer_run: Path, held_out: Recordings, folder: Path, sampling: Sampling
) -> WorldModelConfig:
    """Write a checkpoint in half precision, with its recipe but without start states.

    A transformer that comes from a checkpoint is not changed: where half precision would round it, both parts are
    written as they are.

    Args:
        tokenizer_run: folder of the tokenizer's run.
        transformer_run: folder of the transformer's run; or a checkpoint whose tokenizer the other run adapted.
        held_out: recordings that neither run was trained on.
        folder: of the checkpoint.
        sampling: how its environments sample tokens.

    Returns:
        The checkpoint's configuration.

    Raises:
        CheckpointError: if a run is not finished, the transformer was trained with another tokenizer, or half precision
            cannot represent a weight; ``folder`` is unchanged then.
        DataError: if an episode was not held out.
    """
    check_finished(tokenizer_run)
    check_finished(transformer_run)
    trained = load_world_model_run(tokenizer_run, transformer_run)
    training_data: dict[str, Any] = {"held_out": summarise(held_out)}
    if trained.data:
        check_held_out(trained.data, held_out)
        training_data["trained_on"] = trained.data
    if trained.tokenizer_data and trained.tokenizer_data != trained.data:
        check_held_out(trained.tokenizer_data, held_out)
        training_data["tokenizer_trained_on"] = trained.tokenizer_data
    for summary in trained.earlier:
        check_held_out(summary, held_out)
    if trained.earlier:
        training_data["earlier"] = _with_other_episodes(trained.earlier)
    model = trained.world_model
    config = dataclasses.replace(model.config, training_data=training_data, sampling=sampling)
    kept = find_checkpoint(transformer_run) is not None and not _is_half(model.transformer)
    dtype = None if kept else torch.float16
    with atomic_folder(folder) as temporary:
        WorldModel(config, model.tokenizer, model.transformer).save_pretrained(temporary, dtype=dtype)
        WorldModel.from_pretrained(temporary)  # fails if half precision cannot represent a weight
        if trained.recipe is not None:
            atomic_json(temporary / RECIPE, recipe_to_dict(trained.recipe))
    return config


def _is_half(model: nn.Module) -> bool:
    """Whether half precision represents all weights exactly."""
    return all(torch.equal(value.half().float(), value) for value in model.state_dict().values())


def _with_other_episodes(summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Summaries that have episodes which none of those before has; those without digests are kept."""
    seen: set[str] = set()
    kept = []
    for summary in summaries:
        digests = set(summary.get("digests", "").split())
        if not digests or digests - seen:
            kept.append(summary)
        seen |= digests
    return kept
