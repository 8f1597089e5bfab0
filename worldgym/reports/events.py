"""Figures of predicted events: success and termination."""

import numpy as np
import torch
from numpy.typing import NDArray

from worldgym.data.recordings import Batch, Recordings, Segments, to_batch
from worldgym.metrics.ranking import auroc
from worldgym.reports.evaluation import imagine_chunks
from worldgym.world_model import WorldModel

THRESHOLD = 0.5


def event_figures(
    model: WorldModel, recordings: Recordings, segments: Segments, horizon: int, seed: int = 0
) -> dict[str, float]:
    """Compare predicted events with recorded ones, under the recorded actions.

    Args:
        model: the world model, which samples as its configuration says.
        recordings: held-out episodes.
        segments: of these episodes.
        horizon: steps imagined before the end of an episode.
        seed: of the sampled tokens.

    Returns:
        For a model that predicts successes: ``success_auroc`` and ``success_brier`` over the steps of the segments,
        where both outcomes occur in them. For a model that predicts terminations: ``termination_precision``,
        ``termination_recall`` and ``termination_f1`` of whether the episode ends within a window, by the model with
        probability 0.5 or more, and ``termination_delay``, by how many steps the median predicted end misses the real
        one where both are. Windows are the segments, and the last ``horizon`` steps of every episode that terminated.
    """
    figures: dict[str, float] = {}
    if model.config.success and segments.batch.successes is not None:
        probability = _imagined(model, segments.batch, seed)[0]
        recorded = segments.batch.successes[:, model.config.context_length - 1 :].numpy()
        if recorded.any() and not recorded.all():
            figures["success_auroc"] = auroc(probability, recorded)
            figures["success_brier"] = float(np.mean((probability - recorded) ** 2))
    if model.config.termination and segments.batch.terminations is not None:
        context = model.config.context_length
        parts = [segments.batch, *_ends(recordings, context, horizon)]
        ends = [_end_steps(_imagined(model, part, seed)[1], _terminations(part, context)) for part in parts]
        predicted, actual = (np.concatenate(steps) for steps in zip(*ends, strict=True))
        hits = (predicted >= 0) & (actual >= 0)
        count = float(hits.sum())
        figures["termination_precision"] = count / max(1.0, float((predicted >= 0).sum()))
        figures["termination_recall"] = count / max(1.0, float((actual >= 0).sum()))
        figures["termination_f1"] = 2 * count / max(1.0, float((predicted >= 0).sum() + (actual >= 0).sum()))
        if count:
            figures["termination_delay"] = float(np.abs(predicted - actual)[hits].mean())
    return figures


def _imagined(model: WorldModel, batch: Batch, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities of success and termination, float32 ``[N, T]``, under recorded actions."""
    chunks = imagine_chunks(model, batch, model.config.sampling, seed, "events", decode=False)
    parts = [(found.success_probability.cpu(), found.termination_probability.cpu()) for found in chunks]
    success, termination = (torch.cat(tensors).numpy() for tensors in zip(*parts, strict=True))
    return success, termination


def _terminations(batch: Batch, context: int) -> NDArray[np.bool_]:
    """Where episodes ended, bool ``[N, T]``."""
    assert batch.terminations is not None
    ended: NDArray[np.bool_] = batch.terminations[:, context - 1 :].numpy()
    return ended


def _end_steps(
    probability: NDArray[np.float32], ended: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Predicted and real steps ``[N]`` at which windows end; -1 for those that do not."""
    survival = np.cumprod(1 - probability, axis=1)
    gone = survival <= 1 - THRESHOLD
    return tuple(np.where(mask.any(1), mask.argmax(1), -1) for mask in (gone, ended))  # type: ignore[return-value]


def _ends(recordings: Recordings, context: int, horizon: int) -> list[Batch]:
    """The last steps of the episodes that terminated, those of equal length in one batch."""
    by_length: dict[int, list[int]] = {}
    for index, episode in enumerate(recordings.episodes):
        if episode.info.terminated:
            by_length.setdefault(min(horizon, len(episode)), []).append(index)
    batches = []
    for steps, found in by_length.items():
        starts = [recordings.episodes[index].shape[0] - steps - context for index in found]
        length = context + steps
        batches.append(
            to_batch([recordings.segment(index, start, length) for index, start in zip(found, starts, strict=True)])
        )
    return batches
