"""Held-out figures of a world model: imagined frames and rewards against real ones, by horizon and task."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldgym.config import Sampling
from worldgym.data.recordings import Batch, Segments, to_uint8, to_unit
from worldgym.metrics.pixels import psnr, r_squared, squared_error
from worldgym.reports.video import below, compared, enlarge, write_gif
from worldgym.tokenizer.base import ContextFeatures, codes_perplexity
from worldgym.world_model import WorldModel

CHUNK = 24
Figures = dict[str, Any]


class _Errors(NamedTuple):
    """Per segment and horizon: squared errors ``[N, T]`` and rewards ``[N, T]``."""

    frames: Tensor
    rewards: Tensor


def evaluate(
    model: WorldModel, segments: Segments, samplings: Mapping[str, Sampling], video: Path | None = None, seed: int = 0
) -> Figures:
    """Imagine every segment from its context frames under its real actions.

    Returns:
        For ``all`` and for each task, under each name of ``samplings`` and under ``last_frame`` (the predictor that
        repeats the last context frame) and ``reconstruction`` (the tokenizer alone): ``psnr``, a list by horizon of
        the PSNR of the pooled squared error in dB, and ``reward_r2``, a list by horizon, where rewards are predicted.
        ``segments`` counts them. Frames are compared as uint8, as an agent sees them.
    """
    context = model.config.context_length
    frames, rewards = segments.batch.frames, segments.batch.rewards
    real = frames[:, context:]
    errors: dict[str, _Errors] = {}
    shown: list[Tensor] = []
    for name, sampling in samplings.items():
        made, predicted = _imagine(model, segments.batch, sampling, seed, name)
        errors[name] = _Errors(_squared(made, real), predicted)
        shown = shown or [made]
    last = frames[:, context - 1 : context].expand_as(real)
    errors["last_frame"] = _Errors(_squared(last, real), torch.empty(0))
    errors["reconstruction"] = _Errors(_squared(_reconstruct(model, frames), real), torch.empty(0))
    if video is not None and shown:
        _write_video(video, real, shown[0])
    truth = rewards[:, context - 1 :]
    result = {"all": _figures(errors, truth, torch.arange(len(real)))}
    for task in sorted(set(segments.tasks)):
        rows = torch.tensor([index for index, name in enumerate(segments.tasks) if name == task])
        result[task] = _figures(errors, truth, rows)
    return result


def _imagine(model: WorldModel, batch: Batch, sampling: Sampling, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """Frames uint8 ``[N, T, H, W, 3]`` and rewards ``[N, T]``."""
    context = model.config.context_length
    generator = torch.Generator(model.device).manual_seed(seed)
    frames, rewards = [], []
    for start in tqdm(range(0, len(batch.frames), CHUNK), desc=name, unit="chunk", leave=False):
        rows = slice(start, start + CHUNK)
        imagined = model.rollout(
            batch.frames[rows, :context],
            batch.actions[rows, context - 1 :],
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            generator=generator,
        )
        frames.append(imagined.frames.cpu())
        rewards.append(imagined.rewards.cpu())
    return torch.cat(frames), torch.cat(rewards)


@torch.no_grad()
def _reconstruct(model: WorldModel, frames: Tensor) -> Tensor:
    """What the tokenizer alone makes of the future frames, uint8 ``[N, T, H, W, 3]``."""
    decode = model.tokenizer.decode_future
    return torch.cat([to_uint8(decode(codes, features)).cpu() for _, codes, features in _encoded(model, frames)])


@torch.no_grad()
def perplexities(model: WorldModel, segments: Segments) -> dict[str, float]:
    """How evenly the held-out frames use both codebooks: ``context`` and ``dynamics``, at most their sizes."""
    layout = model.config.layout
    context, dynamics, _ = zip(*_encoded(model, segments.batch.frames), strict=True)
    return {
        "context": codes_perplexity(torch.cat(context), layout.context_codes),
        "dynamics": codes_perplexity(torch.cat(dynamics), layout.dynamics_codes),
    }


def _encoded(model: WorldModel, frames: Tensor) -> Iterator[tuple[Tensor, Tensor, ContextFeatures]]:
    """Context codes, dynamics codes and features of frames uint8 ``[N, C + T, H, W, 3]``, a chunk at a time."""
    split = model.config.context_length
    for chunk in frames.split(CHUNK):
        clip = to_unit(chunk.to(model.device)).to(model.dtype)
        context, features = model.tokenizer.encode_context(clip[:, :split])
        yield context, model.tokenizer.encode_future(clip[:, split:], features), features


def _squared(made: Tensor, real: Tensor) -> Tensor:
    return torch.stack([squared_error(to_unit(a), to_unit(b)) for a, b in zip(made, real, strict=True)])


def _figures(errors: Mapping[str, _Errors], rewards: Tensor, rows: Tensor) -> Figures:
    figures: Figures = {"segments": len(rows)}
    for name, part in errors.items():
        figures[name] = {"psnr": [psnr(float(error)) for error in part.frames[rows].mean(dim=0)]}
        if part.rewards.numel():
            figures[name]["reward_r2"] = [
                r_squared(part.rewards[rows, step], rewards[rows, step]) for step in range(rewards.shape[1])
            ]
    return figures


def _write_video(path: Path, real: Tensor, made: Tensor) -> None:
    """Six segments as rows: real, imagined, twice the difference."""
    rows = np.linspace(0, len(real) - 1, min(6, len(real))).astype(int)
    write_gif(path, enlarge(below(*(compared(real[row].numpy(), made[row].numpy()) for row in rows)), 2))
