"""A folder of recorded episodes, read by random access: Episode -> Segment -> Batch."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldgym.data.episode import SUFFIX, EpisodeFile
from worldgym.errors import DataError


class Segment(NamedTuple):
    """``L`` neighbouring frames of one episode: uint8 ``[L, H, W, 3]``, actions ``[L - 1, A]``, rewards ``[L - 1]``."""

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]


class Batch(NamedTuple):
    """Segments of one length: uint8 ``[B, L, H, W, 3]``, float32 ``[B, L - 1, A]``, float32 ``[B, L - 1]``."""

    frames: Tensor
    actions: Tensor
    rewards: Tensor


class Segments(NamedTuple):
    """Held-out segments and the task of each."""

    batch: Batch
    tasks: list[str]


class Recordings:
    """All episodes below a folder.

    Raises:
        DataError: where there are none, or where frames or actions differ in size between episodes.
    """

    def __init__(self, folder: Path) -> None:
        paths = sorted(path for path in Path(folder).rglob(f"*{SUFFIX}") if not path.name.startswith("."))
        if not paths:
            raise DataError(f"no episodes (*{SUFFIX}) below {folder}; record some: `worldgym collect --out {folder}`")
        self.folder = Path(folder)
        self.episodes = [EpisodeFile(path) for path in paths]
        self.frame_shape, self.action_dim = self.episodes[0].shape[1:], self.episodes[0].actions.shape[1]
        for episode in self.episodes:
            if (episode.shape[1:], episode.actions.shape[1]) != (self.frame_shape, self.action_dim):
                raise DataError(
                    f"{episode.path}: frames {episode.shape[1:]} and {episode.actions.shape[1]} actions beside frames "
                    f"{self.frame_shape} and {self.action_dim} actions of {paths[0]}; keep them in folders of their own"
                )

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks recorded here, sorted."""
        return tuple(sorted({episode.info.task for episode in self.episodes}))

    def check_length(self, length: int) -> None:
        """Raise :class:`DataError` that names the first episode shorter than a segment of ``length`` frames."""
        for episode in self.episodes:
            if episode.shape[0] < length:
                raise DataError(
                    f"{episode.path} holds {episode.shape[0]} frames, fewer than a segment of {length}: "
                    "choose a shorter segment_length, or take the episode away"
                )

    def segment(self, episode: int, start: int, length: int) -> Segment:
        """``length`` frames of an episode from frame ``start`` on."""
        file, stop = self.episodes[episode], start + length
        return Segment(file.frames(start, stop), file.actions[start : stop - 1], file.rewards[start : stop - 1])

    def sample(self, rng: np.random.Generator, batch_size: int, length: int) -> Batch:
        """Segments drawn uniformly over episodes, then over their starts."""
        chosen = [int(index) for index in rng.integers(len(self.episodes), size=batch_size)]
        return to_batch([self.segment(index, self._start(rng, index, length), length) for index in chosen])

    def _start(self, rng: np.random.Generator, index: int, length: int) -> int:
        room = self.episodes[index].shape[0] - length
        if room < 0:
            raise DataError(f"{self.episodes[index].path} is shorter than a segment of {length} frames")
        return int(rng.integers(room + 1))


def fixed_segments(recordings: Recordings, length: int, starts: tuple[int, ...]) -> Segments:
    """The same segments each time: every episode's from a few fixed frames on, where it is long enough.

    Raises:
        DataError: where none is.
    """
    picks, tasks = [], []
    for index, episode in enumerate(recordings.episodes):
        for start in starts:
            if start + length <= episode.shape[0]:
                picks.append(recordings.segment(index, start, length))
                tasks.append(episode.info.task)
    if not picks:
        raise DataError(f"no episode below {recordings.folder} holds {length} frames from frame {min(starts)} on")
    return Segments(to_batch(picks), tasks)


def drawn_segments(recordings: Recordings, length: int, count: int, steps: int, seed: int = 0) -> Segments:
    """``count`` different segments of every episode, drawn from its first ``steps`` steps; equal seeds, equal draws.

    Raises:
        DataError: for an episode too short to hold them.
    """
    rng = np.random.default_rng(seed)
    picks, tasks = [], []
    for index, episode in enumerate(recordings.episodes):
        room = min(episode.shape[0], steps + 1) - length + 1
        if room < count:
            raise DataError(
                f"{episode.path}: {count} segments of {length} frames do not fit its first {steps} steps; ask for fewer"
            )
        for start in np.sort(rng.choice(room, count, replace=False)):
            picks.append(recordings.segment(index, int(start), length))
            tasks.append(episode.info.task)
    return Segments(to_batch(picks), tasks)


def to_batch(segments: list[Segment]) -> Batch:
    """Stack segments of equal length."""
    frames, actions, rewards = zip(*segments, strict=True)
    return Batch(
        torch.from_numpy(np.stack(frames)), torch.from_numpy(np.stack(actions)), torch.from_numpy(np.stack(rewards))
    )


def to_unit(frames: Tensor) -> Tensor:
    """Frames uint8 ``[..., H, W, 3]`` to float32 ``[..., 3, H, W]`` in [0, 1]."""
    return frames.movedim(-1, -3).float().div_(255)


def to_uint8(frames: Tensor) -> Tensor:
    """Inverse of :func:`to_unit`: clamped and rounded, uint8 ``[..., H, W, 3]``."""
    return frames.movedim(-3, -1).clamp(0, 1).mul(255).round().to(torch.uint8)
