"""The bank of real start states that comes with a checkpoint: ``start_states/<task>.npz``, one file a task.

A file holds whole held-out episodes, so that imagination can be compared with what really followed:

    deltas      uint8   [E, T + 1, H, W, 3]   frame 0 as it is, then differences to the frame before, modulo 256
    actions     float32 [E, T, A]             actions[t] leads from frame t to frame t + 1
    rewards     float32 [E, T]                rewards[t] came with frame t + 1
    successes   uint8   [E, T]                1 where the task counted as solved
    behaviours  str     [E]                   who acted
    seeds       int64   [E]                   the seed that the episode was recorded with
    starts      int64   [N, 2]                the bank: episode, frame index of the first context frame
"""

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from worldgym.data.episode import EpisodeFile
from worldgym.data.recordings import Recordings
from worldgym.errors import CheckpointError, DataError, InvalidOption, UnknownTask, nearest
from worldgym.storage.files import atomic_write

EPISODES = 12
START_FRAMES = (0, 20, 40)
_ADVICE = "fetch the checkpoint again, or make its start states anew with build_start_states()"


@dataclass(frozen=True)
class StartState:
    """``C`` real frames to start from, and the ``T`` steps that really followed."""

    task: str
    index: int
    """Its number in the bank."""
    behaviour: str
    seed: int
    first_frame: int
    """Where ``frames[0]`` stands in its episode."""
    frames: NDArray[np.uint8]
    """uint8 ``[C, H, W, 3]``, oldest first."""
    future_frames: NDArray[np.uint8]
    """uint8 ``[T, H, W, 3]``."""
    actions: NDArray[np.float32]
    """float32 ``[T, A]``: ``actions[t]`` leads to ``future_frames[t]``."""
    rewards: NDArray[np.float32]
    """float32 ``[T]``: ``rewards[t]`` came with ``future_frames[t]``."""
    successes: NDArray[np.bool_]
    """bool ``[T]``."""


@dataclass(frozen=True)
class _Episodes:
    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    successes: NDArray[np.bool_]
    behaviours: NDArray[np.str_]
    seeds: NDArray[np.int64]
    starts: NDArray[np.int64]


class StartStates:
    """A folder of start states; a task's file is read when it is first asked for, and kept.

    Raises:
        CheckpointError: where the folder is missing or empty, and later for a file that is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.tasks: tuple[str, ...] = tuple(sorted(path.stem for path in self.folder.glob("[!.]*.npz")))
        if not self.tasks:
            raise CheckpointError(f"expected start states (<task>.npz) in {self.folder}, found none; {_ADVICE}")
        self._read: dict[str, _Episodes] = {}

    def count(self, task: str) -> int:
        """How many start states the task has."""
        return len(self._episodes(task).starts)

    def get(self, task: str, index: int, context_length: int) -> StartState:
        """Start state ``index`` of the task, with ``context_length`` frames of context.

        Raises:
            UnknownTask: for a task that has no file here.
            InvalidOption: for an index outside the bank.
            CheckpointError: where the file is damaged, or its episode ends within the context.
        """
        episodes = self._episodes(task)
        if not 0 <= index < len(episodes.starts):
            raise InvalidOption(f"task {task!r} has start states 0 to {len(episodes.starts) - 1}, got {index}")
        episode, first = (int(value) for value in episodes.starts[index])
        last = first + context_length - 1
        if last >= episodes.actions.shape[1]:
            raise CheckpointError(
                f"{self._path(task)}: start state {index} at frame {first} of {episodes.frames.shape[1]} leaves no "
                f"future behind a context of {context_length}; {_ADVICE}"
            )
        return StartState(
            task,
            index,
            str(episodes.behaviours[episode]),
            int(episodes.seeds[episode]),
            first,
            episodes.frames[episode, first : last + 1].copy(),
            episodes.frames[episode, last + 1 :].copy(),
            episodes.actions[episode, last:].copy(),
            episodes.rewards[episode, last:].copy(),
            episodes.successes[episode, last:].copy(),
        )

    def _path(self, task: str) -> Path:
        return self.folder / f"{task}.npz"

    def _episodes(self, task: str) -> _Episodes:
        if task not in self.tasks:
            raise UnknownTask(f"{self.folder} has no start states of task {task!r}; {nearest(task, self.tasks)}")
        if task not in self._read:
            self._read[task] = _read(self._path(task))
        return self._read[task]


def _read(path: Path) -> _Episodes:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            episodes = _Episodes(
                _undo_deltas(file["deltas"]),
                file["actions"],
                file["rewards"],
                file["successes"].astype(np.bool_),
                file["behaviours"],
                file["seeds"],
                file["starts"],
            )
    except (OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{path}: not a readable file of start states ({error}); {_ADVICE}") from error
    _check(episodes, path)
    return episodes


def _check(episodes: _Episodes, path: Path) -> None:
    count, steps = episodes.rewards.shape if episodes.rewards.ndim == 2 else (-1, -1)
    starts = episodes.starts
    expected: list[tuple[str, NDArray[Any], str, tuple[int, ...]]] = [
        ("deltas", episodes.frames, "uint8", (count, steps + 1, *episodes.frames.shape[2:4], 3)),
        ("actions", episodes.actions, "float32", (count, steps, *episodes.actions.shape[2:3])),
        ("rewards", episodes.rewards, "float32", (count, steps)),
        ("successes", episodes.successes, "bool", (count, steps)),
        ("behaviours", episodes.behaviours, episodes.behaviours.dtype.name, (count,)),
        ("seeds", episodes.seeds, "int64", (count,)),
        ("starts", starts, "int64", (*starts.shape[:1], 2)),
    ]
    for name, array, dtype, shape in expected:
        if array.dtype.name != dtype or array.shape != shape:
            raise CheckpointError(
                f"{path}: expected {name} of {dtype} {shape}, got {array.dtype} {array.shape}; {_ADVICE}"
            )
    if not len(starts) or (starts < 0).any() or (starts >= (count, steps)).any():
        raise CheckpointError(f"{path}: its starts must lie within {count} episodes of {steps} steps; {_ADVICE}")


def build_start_states(
    recordings_folder: Path,
    out_folder: Path,
    start_frames: Sequence[int] = START_FRAMES,
    episodes: int = EPISODES,
) -> list[Path]:
    """Write a bank from recorded episodes; equal recordings give equal files.

    Args:
        recordings_folder: episodes that no training saw, all of one length.
        out_folder: the ``start_states`` folder of a checkpoint.
        start_frames: where in each episode the contexts begin.
        episodes: how many episodes a task, at most; behaviours take turns.

    Returns:
        The files, one a task.

    Raises:
        DataError: where there are no episodes, where a task's differ in length, or where one ends before a start.
    """
    recordings = Recordings(Path(recordings_folder))
    written = []
    for task in recordings.tasks:
        files = _take_turns([file for file in recordings.episodes if file.info.task == task])[:episodes]
        _check_lengths(task, files, start_frames)
        path = Path(out_folder) / f"{task}.npz"
        with atomic_write(path) as aside, aside.open("wb") as out:
            np.savez_compressed(
                out,
                deltas=np.stack([_to_deltas(file.frames()) for file in files]),
                actions=np.stack([file.actions for file in files]),
                rewards=np.stack([file.rewards for file in files]),
                successes=np.stack([file.successes for file in files]).astype(np.uint8),
                behaviours=np.array([file.info.behaviour for file in files]),
                seeds=np.array([file.info.seed for file in files], np.int64),
                starts=np.array(list(itertools.product(range(len(files)), start_frames)), np.int64),
            )
        written.append(path)
    return written


def _take_turns(files: list[EpisodeFile]) -> list[EpisodeFile]:
    """The files reordered so that any first few hold every behaviour."""
    behaviours = sorted({file.info.behaviour for file in files})
    queues = [[file for file in files if file.info.behaviour == behaviour] for behaviour in behaviours]
    rounds = itertools.zip_longest(*queues)
    return [file for turn in rounds for file in turn if file is not None]


def _check_lengths(task: str, files: list[EpisodeFile], start_frames: Sequence[int]) -> None:
    lengths = sorted({len(file) for file in files})
    if len(lengths) > 1:
        raise DataError(f"the start states of {task!r} need episodes of one length, got lengths {lengths}")
    if not start_frames or min(start_frames) < 0 or max(start_frames) >= lengths[0]:
        raise DataError(f"episodes of {task!r} have {lengths[0]} steps: start frames {tuple(start_frames)} do not fit")


def _to_deltas(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames ``[T, ...]`` to what changed since the frame before, modulo 256: it packs several times smaller."""
    deltas = frames.copy()
    deltas[1:] -= frames[:-1]
    return deltas


def _undo_deltas(deltas: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Inverse of :func:`_to_deltas` for a batch ``[E, T, ...]``."""
    if deltas.dtype != np.uint8:
        raise TypeError(f"expected deltas of uint8, got {deltas.dtype}")
    return np.cumsum(deltas, axis=1, dtype=np.uint8)
