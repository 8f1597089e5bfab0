"""A prediction: how a world model continues a recorded clip, as videos, a contact sheet and figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldgym.config import Sampling
from worldgym.data.clips import Clip
from worldgym.data.recordings import to_uint8, to_unit
from worldgym.errors import ConfigError
from worldgym.metrics.pixels import psnr, squared_error
from worldgym.metrics.ssim import WINDOW, ssim
from worldgym.reports.samples import Samples, imagine_samples
from worldgym.reports.sheet import Row, draw_sheet
from worldgym.reports.tables import number
from worldgym.reports.video import Frames, beside, enlarge, write_gif, write_mp4, write_png
from worldgym.storage.files import atomic_json
from worldgym.tokenizer.compressive import CompressiveTokenizer
from worldgym.world_model import WorldModel

FRAMES_PER_SECOND = 4  # as the reference shows them
SHOWN_SAMPLES, SHOWN_STEPS = 5, 8
VIDEO_SIDE = 256  # pixels that a frame has at least in videos


class Files(NamedTuple):
    """The files of a prediction."""

    mp4: Path
    gif: Path
    sheet: Path
    figures: Path


def predict(model: WorldModel, clip: Clip, samples: int, sampling: Sampling, seed: int = 0) -> Samples:
    """Imagine how a clip goes on.

    Args:
        model: the world model.
        clip: its context is the start, its actions are taken.
        samples: number of futures, all of which are kept in memory.
        sampling: of the tokens.
        seed: of the sampled tokens.

    Returns:
        The futures.
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    parts = imagine_samples(model, clip.context, clip.actions, len(clip.future), samples, sampling, generator)
    return Samples(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def prediction_figures(clip: Clip, imagined: Samples) -> dict[str, Any]:
    """Compare futures with what was recorded.

    Returns:
        ``psnr`` and, for frames that are large enough, ``ssim``: lists by horizon of the ``mean`` over the samples, of
        the ``best`` sample (by its mean over the horizon) and of the last context frame, repeated (``last_frame``).
        ``best_sample``, an index, by PSNR. ``rewards``, if the model predicts them: lists by horizon of the mean that
        is ``imagined`` and, where they are known, of the ``recorded`` ones.
    """
    real = to_unit(torch.from_numpy(clip.future))
    last = to_unit(torch.from_numpy(clip.context[-1:])).expand_as(real)
    ratios = _psnr(imagined.frames, real)
    figures: dict[str, Any] = {
        "psnr": {**_by_horizon(ratios), "last_frame": [psnr(float(error)) for error in squared_error(last, real)]},
        "best_sample": int(ratios.mean(dim=1).argmax()),
    }
    if min(real.shape[-2:]) >= WINDOW:
        similarity = torch.stack([ssim(to_unit(sample), real) for sample in imagined.frames])
        figures["ssim"] = {**_by_horizon(similarity), "last_frame": ssim(last, real).tolist()}
    if not torch.isnan(imagined.rewards).all():
        figures["rewards"] = {"imagined": imagined.rewards.mean(dim=0).tolist()}
        if clip.rewards is not None:
            figures["rewards"]["recorded"] = clip.rewards.tolist()
    return figures


def write_prediction(
    folder: Path, clip: Clip, imagined: Samples, figures: Mapping[str, Any], goal: bool = False
) -> Files:
    """Write the videos, the sheet and the figures.

    Args:
        folder: where to write; it is made if it is missing.
        clip: what was recorded.
        imagined: its futures; the first few are shown.
        figures: for the JSON file.
        goal: whether the first context frame is a goal.

    Raises:
        StorageError: if a file cannot be written.
    """
    files = Files(*(folder / name for name in ("prediction.mp4", "prediction.gif", "sheet.png", "figures.json")))
    video = _video(clip, imagined, goal)
    write_mp4(files.mp4, video, FRAMES_PER_SECOND)
    write_gif(files.gif, video, FRAMES_PER_SECOND)
    write_png(files.sheet, _sheet(clip, imagined, goal))
    atomic_json(files.figures, figures)
    return files


@torch.no_grad()
def write_hidden_context(path: Path, model: WorldModel, clip: Clip) -> None:
    """Write a sheet of the recorded frames, encoded and decoded with and without the decoder's view of the context.

    Dynamics codes should say what moves, and take what things look like from the context (paper, figure 10).

    Raises:
        ConfigError: if the tokenizer has no cross-attention that could be dropped.
        StorageError: if the file cannot be written.
    """
    tokenizer = model.tokenizer
    if not isinstance(tokenizer, CompressiveTokenizer):
        raise ConfigError(
            "hide_context: expected the published tokenizer, whose cross-attention can be dropped, got a "
            f"{type(tokenizer).__name__}; leave the option out"
        )
    context, future = (
        to_unit(torch.from_numpy(frames).to(model.device)).to(model.dtype)[None]
        for frames in (clip.context, clip.future)
    )
    _, features = tokenizer.encode_context(context)
    codes = tokenizer.encode_future(future, features)
    decoded = (tokenizer.decode_future(codes, features), tokenizer.decode_without_context(codes))
    with_context, without = (to_uint8(frames[0].float()).numpy(force=True) for frames in decoded)
    steps = _shown_steps(len(clip.future))
    rows = [
        Row("recorded", clip.future[steps]),
        Row("encoded and\ndecoded", with_context[steps], _captions(with_context, clip.future, steps)),
        Row("decoded without\nthe context", without[steps], _captions(without, clip.future, steps)),
    ]
    write_png(path, draw_sheet([f"t = {step + 1}" for step in steps], rows))


def _psnr(frames: Tensor, real: Tensor) -> Tensor:
    """PSNR float64 ``[N, T]`` of frames uint8 ``[N, T, H, W, 3]``, a sample at a time to save memory."""
    errors = [squared_error(to_unit(sample), real) for sample in frames]
    return torch.stack([-10 * error.log10() for error in errors])


def _by_horizon(values: Tensor) -> dict[str, list[float]]:
    """Mean and best, lists of T, of values ``[N, T]`` of which larger ones are better."""
    return {"mean": values.mean(dim=0).tolist(), "best": values[values.mean(dim=1).argmax()].tolist()}


def _shown_steps(horizon: int) -> list[int]:
    """Indices of at most :data:`SHOWN_STEPS` steps, the first and the last among them."""
    return sorted({int(step) for step in np.linspace(0, horizon - 1, SHOWN_STEPS).round()})


def _captions(made: Frames, real: Frames, steps: list[int]) -> list[str]:
    values = _psnr(torch.from_numpy(made)[None], to_unit(torch.from_numpy(real)))[0]
    return [f"PSNR {number(float(values[step]), '.1f')}" for step in steps]


def _sheet(clip: Clip, imagined: Samples, goal: bool) -> Frames:
    steps, count = _shown_steps(len(clip.future)), len(clip.context)
    headings = [("goal" if goal and index == 0 else "context") for index in range(count)]
    rows = [Row("recorded", np.concatenate([clip.context, clip.future[steps]]))]
    for index, sample in enumerate(imagined.frames[:SHOWN_SAMPLES].numpy()):
        rows.append(Row(f"imagined, sample {index}", sample[steps], _captions(sample, clip.future, steps)))
    return draw_sheet([*headings, *(f"t = {step + 1}" for step in steps)], rows)


def _video(clip: Clip, imagined: Samples, goal: bool) -> Frames:
    """Recorded frames, then the first samples, side by side; each begins with the context."""
    context = clip.context[int(goal) :]
    clips = [clip.future, *imagined.frames[:SHOWN_SAMPLES].numpy()]
    factor = max(1, VIDEO_SIDE // clip.future.shape[1] // 2)
    return enlarge(beside(*(np.concatenate([context, each]) for each in clips)), factor)
