"""Figures of a world model on held-out segments: imagined frames and rewards against recorded ones."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldgym.config import Sampling
from worldgym.data.recordings import Segments, check_batch, to_uint8, to_unit
from worldgym.errors import ConfigError, DataError
from worldgym.metrics.pixels import psnr, r_squared, squared_error
from worldgym.metrics.ranking import auroc
from worldgym.reports.video import below, compared, enlarge, write_gif
from worldgym.tokenizer.base import ContextFeatures, codes_perplexity
from worldgym.world_model import Imagined, WorldModel
from worldgym.world_model.images import decode_frame, encode_known, remember_shown

CHUNK = 24  # segments in one batch of the model
WORST_SHARE = 0.1  # of frames, which the uncertainty should tell from the others
VIDEO_SEGMENTS = 6
IMAGINED = ("frames", "rewards", "uncertainty")  # attributes of what is imagined that are compared
Figures = dict[str, Any]


class _Predictions(NamedTuple):
    """Squared errors of predicted frames ``[N, T]``, and predicted rewards ``[N, T]`` or None."""

    errors: Tensor
    rewards: Tensor | None = None
    uncertainty: Tensor | None = None


def evaluate(
    model: WorldModel, segments: Segments, samplings: Mapping[str, Sampling], video: Path | None = None, seed: int = 0
) -> Figures:
    """Imagine every segment from the frames that are shown of it under its recorded actions, and compare.

    Shown are the context frames, and those of ``segments.shown``. Frames are compared as uint8, as an agent gets them.

    Args:
        model: the world model.
        segments: N held-out segments of C context frames and T frames to predict.
        samplings: ways of sampling by their names.
        video: file of a GIF that shows a few segments under the first sampling; None writes none.
        seed: of the sampled tokens.

    Returns:
        Figures of ``all`` segments and of each task. They hold the number of ``segments``, and for each predictor
        ``psnr``, a list by horizon of the PSNR of the pooled squared error in dB, and ``reward_r2``, a list by
        horizon, if rewards are predicted; for imagined frames also ``uncertainty_auroc``, how often the uncertainty of
        a frame among the tenth with the largest errors is higher than that of another. The predictors are the names in
        ``samplings``, ``last_frame`` (the last shown frame, repeated) and ``reconstruction`` (the recorded frame,
        encoded and decoded, with the details of the last shown frame as imagined frames have them).

    Raises:
        DataError: if the segments do not fit the model.
        StorageError: if the video cannot be written.
    """
    _check_segments(model, segments)
    frames, context = segments.batch.frames, model.config.context_length
    recorded, rewards = frames[:, context:], segments.batch.rewards[:, context - 1 :]
    predictions: dict[str, _Predictions] = {}
    for name, sampling in samplings.items():
        predicted, predicted_rewards, uncertainty = imagine_segments(model, segments, sampling, seed, name, IMAGINED)
        if video is not None and not predictions:
            _write_video(video, recorded, predicted)
        predictions[name] = _Predictions(
            _squared_errors(predicted, recorded), predicted_rewards if model.config.reward else None, uncertainty
        )
    last = _last_shown(segments, context).expand_as(recorded)
    predictions["last_frame"] = _Predictions(_squared_errors(last, recorded))
    predictions["reconstruction"] = _Predictions(_squared_errors(_reconstruct(model, segments), recorded))
    result = {"all": _figures(predictions, rewards, torch.arange(len(frames)))}
    for task in sorted(set(segments.tasks)):
        rows = torch.tensor([index for index, name in enumerate(segments.tasks) if name == task])
        result[task] = _figures(predictions, rewards, rows)
    return result


@torch.no_grad()
def perplexities(model: WorldModel, segments: Segments) -> dict[str, float]:
    """Perplexity of the codes of held-out frames: how evenly they use the codebooks.

    Args:
        model: the world model.
        segments: held-out segments.

    Returns:
        ``context`` and ``dynamics``, each between 1 and the size of the codebook.

    Raises:
        DataError: if the segments do not fit the model.
    """
    _check_segments(model, segments)
    layout = model.config.layout
    context, dynamics, _ = zip(*_encode(model, segments.batch.frames), strict=True)
    return {
        "context": codes_perplexity(torch.cat(context), layout.context_codes),
        "dynamics": codes_perplexity(torch.cat(dynamics), layout.dynamics_codes),
    }


def _check_segments(model: WorldModel, segments: Segments) -> None:
    """Raise DataError unless the segments are well-formed and fit the model."""
    check_batch(segments.batch)
    frames, actions = segments.batch[:2]
    config, side = model.config, model.config.resolution
    compared_values = [
        ("a task for each of the segments", len(frames), len(segments.tasks)),
        ("frames of size", (side, side), tuple(frames.shape[2:4])),
        ("actions of length", config.action_dim or actions.shape[2], actions.shape[2]),
    ]
    problems = [f"expected {name} {want}, got {got}" for name, want, got in compared_values if want != got]
    if len(frames) < 1 or frames.shape[1] <= config.context_length:
        problems.append(
            f"expected at least 1 segment of more than {config.context_length} frames, got {len(frames)} of "
            f"{frames.shape[1]}"
        )
    if problems:
        raise DataError(f"the segments do not fit the world model: {'; '.join(problems)}; use recordings like its own")


def imagine_segments(
    model: WorldModel,
    segments: Segments,
    sampling: Sampling,
    seed: int,
    name: str,
    values: Sequence[str],
    decode: bool = True,
) -> tuple[Tensor, ...]:
    """Imagine segments from the frames that are shown of them under their recorded actions, some at a time.

    Args:
        model: the world model.
        segments: N segments.
        sampling: of the tokens.
        seed: of the sampled tokens.
        name: that the progress bar shows.
        values: attributes of :class:`worldgym.world_model.Imagined` that are wanted.
        decode: whether frames are imagined.

    Returns:
        Each of the ``values``, ``[N, T, ...]`` in CPU memory.

    Raises:
        ConfigError: if frames behind the context are shown to a model without actions.
    """
    if segments.shown is not None and not model.config.action_dim:
        raise ConfigError("a model without actions starts from its context alone: show no frames behind it")
    generator = torch.Generator(model.device).manual_seed(seed)
    chunks = [rows for group in _alike(segments) for rows in group.split(CHUNK)]
    parts = []
    for rows in tqdm(chunks, desc=name, unit="chunk", leave=False):
        imagined = _imagine_rows(model, segments, rows, sampling, generator, decode)
        parts.append([getattr(imagined, value).cpu() for value in values])
    order = torch.cat(chunks).argsort()
    return tuple(torch.cat(tensors)[order] for tensors in zip(*parts, strict=True))


def _alike(segments: Segments) -> list[Tensor]:
    """Rows of which equally many frames are shown, which can be one batch."""
    if segments.shown is None:
        return [torch.arange(len(segments.batch.frames))]
    counts = segments.shown.counts
    return [(counts == count).nonzero()[:, 0] for count in counts.unique()]


def _imagine_rows(
    model: WorldModel, segments: Segments, rows: Tensor, sampling: Sampling, generator: torch.Generator, decode: bool
) -> Imagined:
    batch, context = segments.batch, model.config.context_length
    frames, actions = batch.frames[rows, :context], batch.actions[rows, context - 1 :]
    shown = 0 if segments.shown is None else int(segments.shown.counts[rows[0]])
    if segments.shown is None or not shown:
        given, horizon = (actions, None) if model.config.action_dim else (None, batch.frames.shape[1] - context)
        return model.rollout(
            frames, given, sampling.temperature, sampling.top_k, generator, horizon=horizon, decode=decode
        )
    state = model.start(
        torch.cat([frames, segments.shown.frames[rows, -shown:]], dim=1), segments.shown.actions[rows, -shown:]
    )
    return model.imagine(state, actions, sampling.temperature, sampling.top_k, generator, decode=decode)


def _last_shown(segments: Segments, context: int) -> Tensor:
    """The frame before the first future one, uint8 ``[N, 1, H, W, 3]``."""
    last = segments.batch.frames[:, context - 1 : context]
    if segments.shown is None or not segments.shown.frames.shape[1]:
        return last
    some = (segments.shown.counts > 0)[:, None, None, None, None]
    return torch.where(some, segments.shown.frames[:, -1:], last)


@torch.no_grad()
def _reconstruct(model: WorldModel, segments: Segments) -> Tensor:
    """The future frames, encoded and decoded: uint8 ``[N, T, H, W, 3]``."""
    parts, first = [], 0
    last = _last_shown(segments, model.config.context_length)[:, 0]
    for _, codes, features in _encode(model, segments.batch.frames):
        rows = slice(first, first := first + len(codes))
        if segments.shown is not None:
            newest = last[rows].to(model.device)
            known = encode_known(model.tokenizer, newest[:, None], features, model.dtype)[:, 0]
            features = remember_shown(model.tokenizer, newest, known, features, model.dtype)
        frames = [to_uint8(decode_frame(model.tokenizer, step, features)[:, None]) for step in codes.unbind(1)]
        parts.append(torch.cat(frames, dim=1).cpu())
    return torch.cat(parts)


def _encode(model: WorldModel, frames: Tensor) -> Iterator[tuple[Tensor, Tensor, ContextFeatures]]:
    """Context codes, dynamics codes and features of frames uint8 ``[N, C + T, H, W, 3]``, a chunk at a time."""
    context_length = model.config.context_length
    for chunk in frames.split(CHUNK):
        clip = to_unit(chunk.to(model.device)).to(model.dtype)
        context, features = model.tokenizer.encode_context(clip[:, :context_length])
        yield context, model.tokenizer.encode_future(clip[:, context_length:], features), features


def _squared_errors(predicted: Tensor, recorded: Tensor) -> Tensor:
    """Squared errors ``[N, T]`` of frames uint8 ``[N, T, H, W, 3]``, one segment at a time to save memory."""
    return torch.stack([squared_error(to_unit(a), to_unit(b)) for a, b in zip(predicted, recorded, strict=True)])


def _figures(predictions: Mapping[str, _Predictions], rewards: Tensor, rows: Tensor) -> Figures:
    """Figures of some of the segments."""
    figures: Figures = {"segments": len(rows)}
    for name, part in predictions.items():
        figures[name] = {"psnr": [psnr(float(error)) for error in part.errors[rows].mean(dim=0)]}
        if part.uncertainty is not None:
            errors = part.errors[rows].numpy()
            worst = errors > np.quantile(errors, 1 - WORST_SHARE)
            if worst.any():
                figures[name]["uncertainty_auroc"] = auroc(part.uncertainty[rows].numpy(), worst)
        if part.rewards is not None:
            figures[name]["reward_r2"] = [
                r_squared(part.rewards[rows, step], rewards[rows, step]) for step in range(rewards.shape[1])
            ]
    return figures


def _write_video(path: Path, recorded: Tensor, predicted: Tensor) -> None:
    """Write a GIF with a row for each of a few segments: recorded, predicted, twice the difference."""
    rows = np.linspace(0, len(recorded) - 1, min(VIDEO_SEGMENTS, len(recorded))).astype(int)
    write_gif(path, enlarge(below(*(compared(recorded[row].numpy(), predicted[row].numpy()) for row in rows)), 2))
