"""Figures of predicted events: success and termination."""

import numpy as np
from numpy.typing import NDArray

from worldgym.data.branches import read_branches
from worldgym.data.recordings import Batch, Recordings, Segments, to_batch
from worldgym.metrics.ranking import auroc
from worldgym.reports.evaluation import imagine_segments
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
        one where both are. Windows are the segments, and the last ``horizon`` steps of every episode that terminated,
        from as many shown frames.
    """
    figures: dict[str, float] = {}
    if model.config.success and segments.batch.successes is not None:
        probability = _imagined(model, segments, seed)[0]
        recorded = segments.batch.successes[:, model.config.context_length - 1 :].numpy()
        if recorded.any() and not recorded.all():
            figures["success_auroc"] = auroc(probability, recorded)
            figures["success_brier"] = float(np.mean((probability - recorded) ** 2))
    if model.config.termination and segments.batch.terminations is not None:
        context, shown = model.config.context_length, segments.shown
        parts = [segments, *_ends(recordings, context, horizon, None if shown is None else shown.frames.shape[1])]
        ends = [_end_steps(_imagined(model, part, seed)[1], _terminations(part.batch, context)) for part in parts]
        predicted, actual = (np.concatenate(steps) for steps in zip(*ends, strict=True))
        hits = (predicted >= 0) & (actual >= 0)
        count = float(hits.sum())
        figures["termination_precision"] = count / max(1.0, float((predicted >= 0).sum()))
        figures["termination_recall"] = count / max(1.0, float((actual >= 0).sum()))
        figures["termination_f1"] = 2 * count / max(1.0, float((predicted >= 0).sum() + (actual >= 0).sum()))
        if count:
            figures["termination_delay"] = float(np.abs(predicted - actual)[hits].mean())
    return figures


def _imagined(model: WorldModel, segments: Segments, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities of success and termination, float32 ``[N, T]``, under recorded actions."""
    values = ("success_probability", "termination_probability")
    success, termination = imagine_segments(
        model, segments, model.config.sampling, seed, "events", values, decode=False
    )
    return success.numpy(), termination.numpy()


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


def _ends(recordings: Recordings, context: int, horizon: int, shown: int | None) -> list[Segments]:
    """The last steps of the episodes that terminated, those of equal length together."""
    by_length: dict[int, list[int]] = {}
    for index, episode in enumerate(recordings.episodes):
        if episode.info.terminated:
            by_length.setdefault(min(horizon, len(episode)), []).append(index)
    parts = []
    for steps, found in by_length.items():
        starts = [(index, len(recordings.episodes[index]) - steps) for index in found]
        if shown is not None:
            parts.append(read_branches(recordings, starts, context, steps, shown))
            continue
        batch = to_batch([recordings.segment(index, start + 1 - context, context + steps) for index, start in starts])
        parts.append(Segments(batch, [recordings.episodes[index].info.task for index in found]))
    return parts
