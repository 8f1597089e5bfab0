"""The paper's evaluation of video prediction (appendix A.3): many sampled futures of every test video.

PSNR, SSIM and LPIPS are those of the best sample of a video, chosen for each metric by its mean over the frames, then
averaged over videos. PSNR is the mean over frames, not that of the pooled error. FVD compares all samples, each after
the recorded context frames, with the recorded videos.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldgym.data.recordings import Recordings, Segment, to_unit
from worldgym.errors import ConfigError, DataError, nearest
from worldgym.metrics.fvd import Gaussian, frechet_distance
from worldgym.metrics.pixels import r_squared, squared_error
from worldgym.metrics.ranking import spearman
from worldgym.metrics.ssim import ssim
from worldgym.reports.samples import Samples, imagine_samples
from worldgym.world_model import WorldModel

Metric = Callable[[Tensor, Tensor], Tensor]
"""Two tensors of frames ``[N, 3, H, W]`` in [0, 1] to values ``[N]``."""
Features = Callable[[Tensor], Tensor]
"""Videos, uint8 ``[N, T, H, W, 3]``, to features ``[N, D]``."""
Figures = dict[str, Any]
LOWER_IS_BETTER = ("lpips",)
EQUAL = 1e-8  # added to squared errors


class Protocol(NamedTuple):
    """What is predicted.

    Attributes:
        context: frames that are given.
        horizon: frames that are predicted.
        anywhere: whether a clip begins at any frame of its episode, drawn by the seed, or at the first one.
    """

    context: int
    horizon: int
    anywhere: bool = False


PROTOCOLS = {
    "bair": Protocol(1, 15),
    "robonet": Protocol(2, 10),
    "vp2": Protocol(2, 10),
    "metaworld": Protocol(2, 10, anywhere=True),
}


def find_protocol(name: str) -> Protocol:
    """The protocol of a name.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {name!r}; {nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


@dataclass
class _Scores:
    """What is known of the videos so far. Lists have an entry ``[T]`` a video."""

    best: dict[str, list[Tensor]] = field(default_factory=dict)
    mean: dict[str, list[Tensor]] = field(default_factory=dict)
    still: dict[str, list[Tensor]] = field(default_factory=dict)
    rewards: list[Tensor] = field(default_factory=list)
    real_rewards: list[Tensor] = field(default_factory=list)
    real: Gaussian = field(default_factory=Gaussian)
    made: Gaussian = field(default_factory=Gaussian)


def run_protocol(
    model: WorldModel,
    recordings: Recordings,
    protocol: Protocol,
    videos: int = 256,
    samples: int = 100,
    seed: int = 0,
    lpips: Metric | None = None,
    features: Features | None = None,
) -> Figures:
    """Evaluate a world model on test videos, one after the other, so that memory does not grow with their number.

    Args:
        model: the world model.
        recordings: the test videos, of which one clip each is taken.
        protocol: what is predicted.
        videos: how many are taken at most, evenly from all.
        samples: futures of each.
        seed: of places and sampled tokens.
        lpips: perceptual distance; None leaves it out.
        features: of videos, for FVD; None leaves it out.

    Returns:
        ``videos``, ``samples``, ``context`` and ``horizon``. ``best``, ``mean`` (of all samples) and ``last_frame``
        (the last context frame, repeated): lists by horizon of ``psnr``, ``ssim`` and ``lpips``. ``average``: the mean
        over the horizon of each. ``fvd``. If rewards are predicted, ``reward_r2`` and ``reward_rank_correlation`` by
        horizon, and ``return_rank_correlation`` of the sums; predicted rewards are the mean over the samples.

    Raises:
        ConfigError: if the model has another context length than the protocol.
        DataError: if the recordings do not fit the model, or all are too short.
    """
    _check(model, recordings, protocol)
    metrics: dict[str, Metric] = {"psnr": _psnr, "ssim": ssim, **({"lpips": lpips} if lpips is not None else {})}
    scores, generator = _Scores(), torch.Generator(model.device).manual_seed(seed)
    clips = list(_places(recordings, protocol, videos, seed))
    for episode, start in tqdm(clips, desc="evaluate", unit="video"):
        clip = recordings.segment(episode, start, protocol.context + protocol.horizon)
        actions = clip.actions[protocol.context - 1 :] if model.config.action_dim else None
        futures = imagine_samples(
            model, clip.frames[: protocol.context], actions, protocol.horizon, samples, model.config.sampling, generator
        )
        _score(scores, clip, protocol, futures, metrics, features, model.device)
    return _figures(scores, len(clips), samples, protocol, model.config.reward)


def _check(model: WorldModel, recordings: Recordings, protocol: Protocol) -> None:
    config, side = model.config, model.config.resolution
    if config.context_length != protocol.context or config.goal_conditioned:
        goal = ", one of them a goal" if config.goal_conditioned else ""
        raise ConfigError(
            f"this protocol predicts {protocol.horizon} frames from {protocol.context}, but the model takes "
            f"{config.context_length} context frames{goal}; choose another protocol or checkpoint"
        )
    if recordings.frame_shape[:2] != (side, side):
        raise DataError(
            f"{recordings.folder}: expected frames of size {(side, side)}, got {recordings.frame_shape[:2]}; convert "
            f"the recordings with --resolution {side}"
        )
    if config.action_dim and recordings.action_dim != config.action_dim:
        raise DataError(
            f"{recordings.folder}: expected actions of length {config.action_dim}, got {recordings.action_dim}; give "
            "recordings like those that the model was trained on"
        )


def _places(recordings: Recordings, protocol: Protocol, videos: int, seed: int) -> Iterator[tuple[int, int]]:
    """Episode and first frame of every clip. Episodes that are too short are left out, the others taken evenly."""
    length, rng = protocol.context + protocol.horizon, np.random.default_rng(seed)
    long = [index for index, episode in enumerate(recordings.episodes) if episode.shape[0] >= length]
    if not long:
        longest = max(episode.shape[0] for episode in recordings.episodes)
        raise DataError(
            f"{recordings.folder}: expected an episode of at least {length} frames, got {longest} at most; give longer "
            "recordings"
        )
    for place in np.linspace(0, len(long) - 1, min(videos, len(long))).astype(int):
        index = long[place]
        possible = recordings.episodes[index].shape[0] - length + 1
        yield index, int(rng.integers(possible)) if protocol.anywhere else 0


@torch.no_grad()
def _score(
    scores: _Scores,
    clip: Segment,
    protocol: Protocol,
    futures: Iterator[Samples],
    metrics: dict[str, Metric],
    features: Features | None,
    device: torch.device,
) -> None:
    """Measure the futures of one video as they arrive."""
    context, recorded = (part.to(device) for part in torch.from_numpy(clip.frames).tensor_split([protocol.context]))
    real, last = to_unit(recorded), to_unit(context[-1:])
    values: dict[str, list[Tensor]] = {name: [] for name in metrics}
    rewards = []
    for part in futures:
        frames = part.frames.to(device)
        for sample in frames:
            unit = to_unit(sample)
            for name, metric in metrics.items():
                values[name].append(metric(unit, real).cpu())
        rewards.append(part.rewards)
        if features is not None:
            scores.made.add(features(torch.cat([context.expand(len(frames), *context.shape), frames], dim=1)))
    if features is not None:
        scores.real.add(features(torch.cat([context, recorded])[None]))
    for name, metric in metrics.items():
        table = torch.stack(values[name]).double()
        means = table.mean(dim=1)
        best = means.argmin() if name in LOWER_IS_BETTER else means.argmax()
        still = metric(last.expand_as(real), real).cpu().double()
        for kind, row in ((scores.best, table[best]), (scores.mean, table.mean(dim=0)), (scores.still, still)):
            kind.setdefault(name, []).append(row)
    scores.rewards.append(torch.cat(rewards).mean(dim=0))
    scores.real_rewards.append(torch.from_numpy(clip.rewards[protocol.context - 1 :]))


def _figures(scores: _Scores, videos: int, samples: int, protocol: Protocol, reward: bool) -> Figures:
    figures: Figures = {"videos": videos, "samples": samples, "context": protocol.context, "horizon": protocol.horizon}
    parts = {"best": scores.best, "mean": scores.mean, "last_frame": scores.still}
    curves = {
        part: {name: torch.stack(rows).mean(dim=0) for name, rows in found.items()} for part, found in parts.items()
    }
    figures |= {part: {name: curve.tolist() for name, curve in found.items()} for part, found in curves.items()}
    figures["average"] = {
        part: {name: float(curve.mean()) for name, curve in found.items()} for part, found in curves.items()
    }
    if scores.real.count:
        figures["fvd"] = frechet_distance(scores.real, scores.made)
    if reward:
        made, real = torch.stack(scores.rewards), torch.stack(scores.real_rewards)
        steps = range(protocol.horizon)
        figures["reward_r2"] = [r_squared(made[:, step], real[:, step]) for step in steps]
        figures["reward_rank_correlation"] = [_rank(made[:, step], real[:, step]) for step in steps]
        figures["return_rank_correlation"] = _rank(made.sum(dim=1), real.sum(dim=1))
    return figures


def _rank(made: Tensor, real: Tensor) -> float:
    return spearman(made.double().numpy(), real.double().numpy())


def _psnr(made: Tensor, real: Tensor) -> Tensor:
    """PSNR ``[N]``; that of equal frames is 80 dB, as in the paper's implementation, because it enters a mean."""
    return -10 * (squared_error(made, real) + EQUAL).log10()
