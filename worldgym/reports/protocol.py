"""The paper's evaluation of video prediction (appendix A.3): many sampled futures of every test video.

PSNR, SSIM and LPIPS are those of the best sample of a video, chosen for each metric by its mean over the frames, then
averaged over videos. PSNR is the mean over frames, not that of the pooled error. FVD compares all samples, each after
the recorded context frames, with the recorded videos.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

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


class Place(NamedTuple):
    """Where a clip begins: an episode, and its first frame."""

    episode: int
    start: int


class Score(NamedTuple):
    """What is known of one video and its futures, in CPU memory.

    Attributes:
        best: of every metric, the values ``[T]`` of the best sample.
        mean: the mean over the samples.
        still: of the last context frame, repeated.
        rewards: the mean of the predicted ones over the samples, ``[T]``.
        real_rewards: ``[T]``.
        real: features of the recorded video, float64 ``[1, D]``; None where they are not measured.
        made: features of the samples, ``[N, D]``.
    """

    best: dict[str, Tensor]
    mean: dict[str, Tensor]
    still: dict[str, Tensor]
    rewards: Tensor
    real_rewards: Tensor
    real: Tensor | None
    made: Tensor | None


class Scorer:
    """Scores videos one by one, each as if it were alone, so that several processes can share the work.

    Args:
        model: the world model.
        recordings: the test videos.
        protocol: what is predicted.
        samples: futures of each video.
        seed: of places and sampled tokens.
        lpips: perceptual distance; None leaves it out.
        features: of videos, for FVD; None leaves it out.

    Raises:
        ConfigError: if the model has another context length than the protocol.
        DataError: if the recordings do not fit the model.
    """

    def __init__(
        self,
        model: WorldModel,
        recordings: Recordings,
        protocol: Protocol,
        samples: int = 100,
        seed: int = 0,
        lpips: Metric | None = None,
        features: Features | None = None,
    ) -> None:
        _check(model, recordings, protocol)
        self.model, self.recordings, self.protocol = model, recordings, protocol
        self.samples, self.seed, self.features = samples, seed, features
        self.metrics: dict[str, Metric] = {"psnr": _psnr, "ssim": ssim, **({} if lpips is None else {"lpips": lpips})}

    def places(self, videos: int) -> list[Place]:
        """Where the clips lie: of at most so many episodes, evenly from all that are long enough.

        Raises:
            DataError: if all are too short.
        """
        return list(_places(self.recordings, self.protocol, videos, self.seed))

    @torch.no_grad()
    def score(self, place: Place) -> Score:
        """The score of a video. It depends on the place and the seed alone."""
        protocol, device = self.protocol, self.model.device
        clip = self.recordings.segment(*place, protocol.context + protocol.horizon)
        context, recorded = (part.to(device) for part in torch.from_numpy(clip.frames).tensor_split([protocol.context]))
        real, last = to_unit(recorded), to_unit(context[-1:])
        values: dict[str, list[Tensor]] = {name: [] for name in self.metrics}
        rewards, made = [], []
        for part in self._futures(place, clip):
            frames = part.frames.to(device)
            for sample in frames:
                unit = to_unit(sample)
                for name, metric in self.metrics.items():
                    values[name].append(metric(unit, real).cpu())
            rewards.append(part.rewards)
            if self.features is not None:
                videos = torch.cat([context.expand(len(frames), *context.shape), frames], dim=1)
                made.append(self.features(videos).double().cpu())
        tables = {name: torch.stack(rows).double() for name, rows in values.items()}
        return Score(
            {name: table[_best(name, table.mean(dim=1))] for name, table in tables.items()},
            {name: table.mean(dim=0) for name, table in tables.items()},
            {name: metric(last.expand_as(real), real).cpu().double() for name, metric in self.metrics.items()},
            torch.cat(rewards).mean(dim=0),
            torch.from_numpy(clip.rewards[protocol.context - 1 :]),
            None if self.features is None else self.features(torch.cat([context, recorded])[None]).double().cpu(),
            torch.cat(made) if made else None,
        )

    def _futures(self, place: Place, clip: Segment) -> Iterator[Samples]:
        protocol, config = self.protocol, self.model.config
        seed = int(np.random.default_rng([self.seed, *place]).integers(2**31))
        return imagine_samples(
            self.model,
            clip.frames[: protocol.context],
            clip.actions[protocol.context - 1 :] if config.action_dim else None,
            protocol.horizon,
            self.samples,
            config.sampling,
            torch.Generator(self.model.device).manual_seed(seed),
        )

    def figures(self, scores: Iterable[Score]) -> Figures:
        """The figures of all videos, whose scores arrive one after the other; see :func:`run_protocol`."""
        found, real, made = [], Gaussian(), Gaussian()
        for score in scores:
            if score.real is not None and score.made is not None:
                real.add(score.real)
                made.add(score.made)
            found.append(score._replace(real=None, made=None))  # so that memory hardly grows with their number
        figures = _curves(found, self.samples, self.protocol)
        if real.count:
            figures["fvd"] = frechet_distance(real, made)
        return figures | (_reward_figures(found) if self.model.config.reward else {})


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
    """Evaluate a world model on test videos, one after the other.

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
    scorer = Scorer(model, recordings, protocol, samples, seed, lpips, features)
    return scorer.figures(map(scorer.score, scorer.places(videos)))


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


def _places(recordings: Recordings, protocol: Protocol, videos: int, seed: int) -> Iterator[Place]:
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
        yield Place(index, int(rng.integers(possible)) if protocol.anywhere else 0)


def _best(name: str, means: Tensor) -> Tensor:
    """The number of the best sample, by the means ``[N]`` of a metric over the frames."""
    return means.argmin() if name in LOWER_IS_BETTER else means.argmax()


def _curves(scores: list[Score], samples: int, protocol: Protocol) -> Figures:
    """The means over the videos by horizon, and their means."""
    parts = {"best": "best", "mean": "mean", "last_frame": "still"}
    curves = {
        part: {
            name: torch.stack([getattr(score, attribute)[name] for score in scores]).mean(dim=0)
            for name in scores[0].best
        }
        for part, attribute in parts.items()
    }
    return {
        "videos": len(scores),
        "samples": samples,
        "context": protocol.context,
        "horizon": protocol.horizon,
        **{part: {name: curve.tolist() for name, curve in found.items()} for part, found in curves.items()},
        "average": {
            part: {name: float(curve.mean()) for name, curve in found.items()} for part, found in curves.items()
        },
    }


def _reward_figures(scores: list[Score]) -> Figures:
    made, real = (torch.stack([getattr(score, name) for score in scores]) for name in ("rewards", "real_rewards"))
    steps = range(made.shape[1])
    return {
        "reward_r2": [r_squared(made[:, step], real[:, step]) for step in steps],
        "reward_rank_correlation": [_rank(made[:, step], real[:, step]) for step in steps],
        "return_rank_correlation": _rank(made.sum(dim=1), real.sum(dim=1)),
    }


def _rank(made: Tensor, real: Tensor) -> float:
    return spearman(made.double().numpy(), real.double().numpy())


def _psnr(made: Tensor, real: Tensor) -> Tensor:
    """PSNR ``[N]``; that of equal frames is 80 dB, as in the paper's implementation, because it enters a mean."""
    return -10 * (squared_error(made, real) + EQUAL).log10()
