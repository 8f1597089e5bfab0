"""A folder of recorded episodes with random access. A segment is a part of an episode, a batch is several segments."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldgym.data.episode import SUFFIX, EpisodeFile
from worldgym.errors import DataError


class Segment(NamedTuple):
    """L consecutive frames of one episode, with the L - 1 steps between them.

    Attributes:
        frames: uint8 ``[L, H, W, 3]``.
        actions: float32 ``[L - 1, A]``.
        rewards: float32 ``[L - 1]``.
        successes: bool ``[L - 1]``, where the task counted as solved; None where that is unknown.
        terminations: bool ``[L - 1]``, where a step ended the episode; None where that is unknown.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    successes: NDArray[np.bool_] | None = None
    terminations: NDArray[np.bool_] | None = None


class Batch(NamedTuple):
    """B segments of one length L.

    Attributes:
        frames: uint8 ``[B, L, H, W, 3]``.
        actions: float32 ``[B, L - 1, A]``.
        rewards: float32 ``[B, L - 1]``.
        successes: bool ``[B, L - 1]``, where the task counted as solved; None where that is unknown.
        terminations: bool ``[B, L - 1]``, where a step ended the episode; None where that is unknown.
    """

    frames: Tensor
    actions: Tensor
    rewards: Tensor
    successes: Tensor | None = None
    terminations: Tensor | None = None


class Shown(NamedTuple):
    """Real frames between the contexts of B segments and their future frames, at most K of each.

    Attributes:
        frames: uint8 ``[B, K, H, W, 3]``. The last ones count; those before are blank.
        actions: float32 ``[B, K, A]``, the steps to these frames.
        counts: int64 ``[B]``, how many frames count.
    """

    frames: Tensor
    actions: Tensor
    counts: Tensor


class Segments(NamedTuple):
    """Segments for an evaluation.

    Attributes:
        batch: B segments.
        tasks: the task of each.
        shown: real frames between context and future; None if the future follows the context.
    """

    batch: Batch
    tasks: list[str]
    shown: Shown | None = None


class Recordings:
    """All episodes below some folders.

    Attributes:
        folder: the first folder.
        episodes: their episodes, folder by folder in the order of their paths.
        frame_shape: shape of every frame, ``(H, W, 3)``.
        action_dim: length A of every action.
        action_space: description of the action space; see :class:`worldgym.data.episode.EpisodeInfo`.
        mixture: how parts of the episodes are sampled, as plain JSON; empty where all are sampled alike. See
            :class:`worldgym.data.mixture.Mixture`.
    """

    mixture: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, folder: Path, *more: Path) -> None:
        """Open all episodes below some folders; their frames are read when they are needed.

        Args:
            folder: a folder with episode files, at any depth. Hidden files are left out.
            *more: further folders.

        Raises:
            DataError: if a folder has no episodes, one cannot be read, or frames or actions differ between them.
        """
        self.folder = Path(folder)
        paths = [path for each in (folder, *more) for path in _episode_paths(Path(each))]
        self._take([EpisodeFile(path) for path in paths])

    def _take(self, episodes: list[EpisodeFile]) -> None:
        """Set the attributes that are those of the episodes, after checking that they are alike."""
        self.episodes, first = episodes, episodes[0].path
        self.frame_shape, self.action_dim = self.episodes[0].shape[1:], self.episodes[0].actions.shape[1]
        self.action_space = self.episodes[0].info.action_space
        for episode in self.episodes:
            if episode.info.action_space != self.action_space:
                raise DataError(
                    f"{episode.path}: expected the action space {self.action_space or 'of vectors in [-1, 1]'} as in "
                    f"{first}, got {episode.info.action_space or 'vectors in [-1, 1]'}; put the episodes of each "
                    "environment into a folder of their own"
                )
            if (episode.shape[1:], episode.actions.shape[1]) != (self.frame_shape, self.action_dim):
                raise DataError(
                    f"{episode.path}: expected frames {self.frame_shape} and actions of length {self.action_dim} as in "
                    f"{first}, got frames {episode.shape[1:]} and actions of length {episode.actions.shape[1]}; "
                    "put them into folders of their own"
                )

    @property
    def tasks(self) -> tuple[str, ...]:
        """The recorded tasks, sorted."""
        return tuple(sorted({episode.info.task for episode in self.episodes}))

    def check_length(self, length: int) -> None:
        """Check that every episode holds a segment.

        Args:
            length: frames of a segment.

        Raises:
            DataError: if an episode has fewer frames; the message names the first one.
        """
        for episode in self.episodes:
            _check_length(episode, length)

    def segment(self, episode: int, start: int, length: int) -> Segment:
        """Read a segment.

        Args:
            episode: index of the episode.
            start: index of the first frame. If it is negative, the episode's first frame is repeated before it, with
                actions and rewards of 0 in between, as learned environments fill their context after a reset.
            length: number of frames. Behind the end, the episode's last frame is repeated likewise.

        Returns:
            The segment.

        Raises:
            DataError: if the file cannot be read any more.
        """
        return self.window(episode, start, length, 0, 0)

    def window(self, episode: int, start: int, context: int, gap: int, future: int) -> Segment:
        """Read a context and frames that come later in its episode.

        Args:
            episode: index of the episode.
            start: index of the first frame of the context; negative as in :meth:`segment`.
            context: frames of the context, C.
            gap: frames that are left out after it.
            future: frames after those, T.

        Returns:
            A segment of C + T frames. If frames are left out, the first later frame is not the result of the action
            before it alone.

        Raises:
            DataError: if the file cannot be read any more.
        """
        if not gap:
            return self._span(episode, start, context + future)
        first, last = self._span(episode, start, context), start + context + gap
        later = self._span(episode, last - 1, future + 1)
        return Segment(
            np.concatenate([first.frames, later.frames[1:]]),
            *(np.concatenate(parts) for parts in zip(first[1:], later[1:], strict=True)),  # type: ignore[arg-type]
        )

    def _span(self, episode: int, start: int, length: int) -> Segment:
        file, stop = self.episodes[episode], start + length
        before, after = max(0, -start), max(0, stop - self.episodes[episode].shape[0])
        first, end = max(0, start), stop - after
        steps = (file.actions, file.rewards, file.successes, file.terminations)
        return Segment(
            _pad(file.frames(first, end), before, after, mode="edge"),
            *(_pad(array[first : end - 1], before, after, mode="constant") for array in steps),
        )

    def draw(self, rng: np.random.Generator) -> int:
        """Sample an episode, uniformly.

        Returns:
            Its index.
        """
        return int(rng.integers(len(self.episodes)))

    def sample(self, rng: np.random.Generator, batch_size: int, length: int) -> Batch:
        """Sample segments: an episode by :meth:`draw`, then its first frame uniformly.

        Args:
            rng: source of randomness.
            batch_size: number of segments B.
            length: frames L of a segment.

        Returns:
            The segments.

        Raises:
            DataError: if a sampled episode is shorter than a segment.
        """
        chosen = [self.draw(rng) for _ in range(batch_size)]
        return to_batch([self.segment(index, self._sample_start(rng, index, length), length) for index in chosen])

    def _sample_start(self, rng: np.random.Generator, index: int, length: int) -> int:
        episode = self.episodes[index]
        _check_length(episode, length)
        return int(rng.integers(episode.shape[0] - length + 1))


def _episode_paths(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.rglob(f"*{SUFFIX}") if not path.name.startswith("."))
    if not paths:
        missing = "" if folder.is_dir() else ", because there is no such folder"
        raise DataError(
            f"{folder}: expected episodes (*{SUFFIX}), found none{missing}; record some (`worldgym collect --out "
            f"{folder}`) or convert other recordings (`worldgym convert --help`)"
        )
    return paths


def fixed_segments(recordings: Recordings, length: int, starts: tuple[int, ...]) -> Segments:
    """Read the segments of every episode that begin at given frames. Segments that do not fit are left out.

    Args:
        recordings: the episodes.
        length: frames of a segment.
        starts: indices of the first frames.

    Returns:
        The segments, in the order of episodes.

    Raises:
        DataError: if no segment fits.
    """
    segments, tasks = [], []
    for index, episode in enumerate(recordings.episodes):
        for start in starts:
            if start + length <= episode.shape[0]:
                segments.append(recordings.segment(index, start, length))
                tasks.append(episode.info.task)
    if not segments:
        raise DataError(
            f"{recordings.folder}: expected an episode with {length} frames from frame {min(starts)} on, got "
            f"{max(episode.shape[0] for episode in recordings.episodes)} frames at most; choose shorter segments"
        )
    return Segments(to_batch(segments), tasks)


def validation_segments(recordings: Recordings, length: int, starts: tuple[int, ...]) -> Segments:
    """As :func:`fixed_segments`, but from first frames on, and shorter, where the episodes are too short otherwise."""
    longest = max(episode.shape[0] for episode in recordings.episodes)
    if longest < min(starts) + length:
        return fixed_segments(recordings, min(length, longest), (0,))
    return fixed_segments(recordings, length, starts)


def sample_segments(recordings: Recordings, length: int, count: int, steps: int, seed: int = 0) -> Segments:
    """Sample different segments of every episode; fewer of an episode that has fewer.

    Args:
        recordings: the episodes.
        length: frames of a segment.
        count: segments from each episode.
        steps: the segments lie in the first so many steps of an episode.
        seed: equal seeds sample equal segments.

    Returns:
        The segments, in the order of episodes.

    Raises:
        DataError: if all episodes are too short.
    """
    rng = np.random.default_rng(seed)
    segments, tasks = [], []
    for index, episode in enumerate(recordings.episodes):
        possible = max(0, min(episode.shape[0], steps + 1) - length + 1)
        for start in np.sort(rng.choice(possible, min(count, possible), replace=False)) if possible else ():
            segments.append(recordings.segment(index, int(start), length))
            tasks.append(episode.info.task)
    if not segments:
        raise DataError(
            f"{recordings.folder}: expected an episode with a segment of {length} frames in its first {steps} steps, "
            f"got {max(episode.shape[0] for episode in recordings.episodes)} frames at most; ask for shorter segments"
        )
    return Segments(to_batch(segments), tasks)


def to_batch(segments: list[Segment]) -> Batch:
    """Stack segments of one length. What is unknown of one of them is unknown of the batch."""
    return Batch(*(_stack(arrays) for arrays in zip(*segments, strict=True)))


def _stack(arrays: tuple[NDArray[Any] | None, ...]) -> Any:
    known = [array for array in arrays if array is not None]
    return torch.from_numpy(np.stack(known)) if len(known) == len(arrays) else None


def _pad(array: NDArray[Any], before: int, after: int, mode: Literal["edge", "constant"]) -> NDArray[Any]:
    return np.pad(array, [(before, after), *[(0, 0)] * (array.ndim - 1)], mode) if before or after else array


def check_batch(batch: Batch) -> None:
    """Check shapes and dtypes of a batch, so that nothing is broadcast by mistake.

    Args:
        batch: what should be a batch.

    Raises:
        DataError: if a shape or dtype is not as :class:`Batch` describes it.
    """
    shape = tuple(batch.frames.shape)
    leading = shape[:1] + ((shape[1] - 1,) if len(shape) > 1 else ())
    expected = "frames uint8 [B, L, H, W, 3], actions float32 [B, L - 1, A] and rewards float32 [B, L - 1]"
    expected += ", and successes and terminations bool [B, L - 1] if they are known"
    events = [tensor for tensor in (batch.successes, batch.terminations) if tensor is not None]
    fits = (
        batch.frames.dtype == torch.uint8
        and len(shape) == 5
        and shape[4] == 3
        and batch.actions.dtype == batch.rewards.dtype == torch.float32
        and batch.actions.ndim == 3
        and batch.actions.shape[:2] == batch.rewards.shape == leading
        and all(tensor.dtype == torch.bool and tensor.shape == leading for tensor in events)
    )
    if not fits:
        got = ", ".join(
            f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
            for name, tensor in zip(Batch._fields, batch, strict=True)
            if tensor is not None
        )
        raise DataError(f"expected {expected}, got {got}; reshape or convert them")


def _check_length(episode: EpisodeFile, length: int) -> None:
    if episode.shape[0] < length:
        raise DataError(
            f"{episode.path}: expected at least {length} frames, which a segment has, got {episode.shape[0]}; choose "
            "a shorter segment_length or a smaller step of the mixture, or take the episode out"
        )


def to_unit(frames: Tensor) -> Tensor:
    """Convert frames for the networks.

    Args:
        frames: uint8 ``[..., H, W, 3]``.

    Returns:
        float32 ``[..., 3, H, W]`` in [0, 1].
    """
    return frames.movedim(-1, -3).float().div_(255)


def to_uint8(frames: Tensor) -> Tensor:
    """Convert frames back from the networks: the inverse of :func:`to_unit`.

    Args:
        frames: floating point ``[..., 3, H, W]``; values outside [0, 1] are clamped.

    Returns:
        uint8 ``[..., H, W, 3]``, rounded.
    """
    return frames.movedim(-3, -1).clamp(0, 1).mul(255).round().to(torch.uint8)
