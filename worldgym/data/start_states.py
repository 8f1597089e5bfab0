"""The start states of a checkpoint: real frames from which learned environments start their episodes.

They are a folder of ``.npz`` files, one a task. A file holds whole held-out episodes, so that imagined steps can be
compared with the recorded ones:

    task        str     []                    the task; files without it are named by their task
    deltas      uint8   [E, T + 1, H, W, 3]   frame 0 as it is, then differences to the frame before, modulo 256
    actions     float32 [E, T, A]             actions[t] leads from frame t to frame t + 1
    rewards     float32 [E, T]                rewards[t] came with frame t + 1
    successes   uint8   [E, T]                1 where the task counted as solved
    behaviours  str     [E]                   the behaviour that chose the actions
    seeds       int64   [E]                   the seed that the episode was recorded with
    starts      int64   [N, 2]                the start states: episode, frame index of the first context frame
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldgym.data.episode import Episode, EpisodeFile
from worldgym.data.mixture import open_recordings
from worldgym.data.names import file_name
from worldgym.errors import CheckpointError, DataError, InvalidOption, UnknownTask, nearest
from worldgym.storage.npz import open_npz, write_npz

EPISODES = 12
START_FRAMES = (0, 20, 40)
_ADVICE = "download the checkpoint again, or write its start states again with build_start_states()"
_CONTENT = "file of start states"


@dataclass(frozen=True)
class StartState:
    """``C`` recorded frames to start from, and the ``T`` recorded steps that followed.

    Attributes:
        task: the task of the episode.
        index: number of the start state within its task.
        behaviour: the behaviour that chose the actions.
        seed: the seed that the episode was recorded with.
        first_frame: index of ``frames[0]`` in its episode.
        frames: uint8 ``[C, H, W, 3]``, oldest first.
        future_frames: uint8 ``[T, H, W, 3]``.
        actions: float32 ``[T, A]``; ``actions[t]`` leads to ``future_frames[t]``.
        rewards: float32 ``[T]``; ``rewards[t]`` came with ``future_frames[t]``.
        successes: bool ``[T]``.
    """

    task: str
    index: int
    behaviour: str
    seed: int
    first_frame: int
    frames: NDArray[np.uint8]
    future_frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    successes: NDArray[np.bool_]


@dataclass(frozen=True)
class _Episodes:
    """The contents of a file, decoded."""

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    successes: NDArray[np.bool_]
    behaviours: NDArray[np.str_]
    seeds: NDArray[np.int64]
    starts: NDArray[np.int64]


class StartStates:
    """Reads a folder of start states. The file of a task is read at its first use and then kept in memory.

    Args:
        folder: the ``start_states`` folder of a checkpoint.

    Attributes:
        folder: the folder.
        tasks: names of the tasks that have start states, sorted.

    Raises:
        CheckpointError: if the folder is missing or empty; a damaged file raises it at its first use.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._paths = {_stored_task(path): path for path in sorted(self.folder.glob("[!.]*.npz"))}
        self.tasks: tuple[str, ...] = tuple(sorted(self._paths))
        if not self.tasks:
            raise CheckpointError(f"expected start states (<task>.npz) in {self.folder}, found none; {_ADVICE}")
        self._read: dict[str, _Episodes] = {}

    def count(self, task: str) -> int:
        """The number of start states of a task.

        Raises:
            UnknownTask: if the task has no file.
            CheckpointError: if the file is damaged.
        """
        return len(self._episodes(task).starts)

    def first_frames(self, task: str) -> NDArray[np.int64]:
        """For each start state of a task the frame index of its first context frame, int64 ``[count(task)]``.

        Raises:
            UnknownTask: if the task has no file.
            CheckpointError: if the file is damaged.
        """
        return self._episodes(task).starts[:, 1].copy()

    def episode_steps(self, task: str) -> int:
        """Steps of the episodes of a task.

        Raises:
            UnknownTask: if the task has no file.
            CheckpointError: if the file is damaged.
        """
        return self._episodes(task).actions.shape[1]

    def get(self, task: str, index: int, context_length: int) -> StartState:
        """Start state ``index`` of a task.

        Args:
            task: a task of :attr:`tasks`.
            index: from 0 to ``count(task) - 1``.
            context_length: number of frames to start from.

        Returns:
            The start state, with copies of all arrays.

        Raises:
            UnknownTask: if the task has no file.
            InvalidOption: if the index is out of range.
            CheckpointError: if the file is damaged, or its episode ends within the context.
        """
        episodes = self._episodes(task)
        if not 0 <= index < len(episodes.starts):
            raise InvalidOption(f"task {task!r} has start states 0 to {len(episodes.starts) - 1}, got {index}")
        episode, first = (int(value) for value in episodes.starts[index])
        last = first + context_length - 1
        if last >= episodes.actions.shape[1]:
            raise CheckpointError(
                f"{self._paths[task]}: start state {index} at frame {first} of {episodes.frames.shape[1]} leaves no "
                f"step after a context of {context_length}; {_ADVICE}"
            )
        return StartState(
            task=task,
            index=index,
            behaviour=str(episodes.behaviours[episode]),
            seed=int(episodes.seeds[episode]),
            first_frame=first,
            frames=episodes.frames[episode, first : last + 1].copy(),
            future_frames=episodes.frames[episode, last + 1 :].copy(),
            actions=episodes.actions[episode, last:].copy(),
            rewards=episodes.rewards[episode, last:].copy(),
            successes=episodes.successes[episode, last:].copy(),
        )

    def _episodes(self, task: str) -> _Episodes:
        if task not in self._paths:
            raise UnknownTask(f"{self.folder} has no start states of task {task!r}; {nearest(task, self.tasks)}")
        if task not in self._read:
            self._read[task] = _read(self._paths[task])
        return self._read[task]


def _stored_task(path: Path) -> str:
    """The task of a file; of one that cannot be read the file's name, so that the error comes at its first use."""
    try:
        with open_npz(path, _CONTENT, _ADVICE) as file:
            return str(file["task"]) if "task" in file.files else path.stem
    except CheckpointError:
        return path.stem


def _read(path: Path) -> _Episodes:
    with open_npz(path, _CONTENT, _ADVICE) as file:
        episodes = _Episodes(
            _undo_deltas(file["deltas"]),
            file["actions"],
            file["rewards"],
            file["successes"].astype(np.bool_),
            file["behaviours"],
            file["seeds"],
            file["starts"],
        )
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
    context_length: int = 1,
    start_frames: Sequence[int] | None = None,
    episodes: int = EPISODES,
) -> list[Path]:
    """Write start states of recorded episodes. Equal recordings give equal files.

    Args:
        recordings_folder: episodes that no training has used.
        out_folder: the ``start_states`` folder of a checkpoint.
        context_length: frames of a context.
        start_frames: frame indices in each episode at which the contexts begin (default: the usual ones that fit).
        episodes: the most episodes to take of a task; behaviours take turns. Where episodes differ in length, the
            longest are taken and cut to the length of the shortest of them.

    Returns:
        The files, one a task.

    Raises:
        DataError: as :func:`write_start_states`.
    """
    recordings = open_recordings(Path(recordings_folder))
    chosen = []
    for task in recordings.tasks:
        files = [file for file in recordings.episodes if file.info.task == task]
        if len({len(file) for file in files}) > 1:
            files = sorted(files, key=len, reverse=True)[:episodes]
        files = _take_turns(files)[:episodes]
        steps = min(map(len, files))
        starts = fitting_start_frames(steps, context_length) if start_frames is None else start_frames
        _check_start_frames(task, steps, starts)
        chosen.append((files, steps, starts))
    paths = []
    for files, steps, starts in chosen:
        paths += write_start_states(out_folder, [file.load().cut(steps) for file in files], starts)
    return paths


def fitting_start_frames(steps: int, context_length: int) -> list[int]:
    """The usual start frames whose contexts lie within an episode of so many steps; the first one at least."""
    return [frame for frame in START_FRAMES if not frame or frame + context_length <= steps]


def write_start_states(
    folder: Path, episodes: Iterable[Episode], start_frames: Sequence[int] = START_FRAMES
) -> list[Path]:
    """Write start states of episodes in memory. A file that the folder holds for one of the tasks is replaced.

    Args:
        folder: the ``start_states`` folder of a checkpoint or of a run's world model.
        episodes: of any tasks; all episodes of one task have equally many steps.
        start_frames: frame indices in each episode at which the contexts begin.

    Returns:
        The files, one a task, in the order of the tasks' first episodes.

    Raises:
        DataError: if there are no episodes, those of a task differ in length, or a start frame is not within them.
    """
    by_task: dict[str, list[Episode]] = {}
    for episode in episodes:
        by_task.setdefault(episode.info.task, []).append(episode)
    if not by_task:
        raise DataError("expected at least one episode to take start states from, got none")
    for task, group in by_task.items():
        _check_lengths(task, group, start_frames)
    return [_write(Path(folder), task, group, start_frames) for task, group in by_task.items()]


def _write(folder: Path, task: str, episodes: list[Episode], start_frames: Sequence[int]) -> Path:
    path = folder / f"{file_name(task)}.npz"
    write_npz(
        path,
        task=np.array(task),
        deltas=np.stack([_to_deltas(episode.frames) for episode in episodes]),
        actions=np.stack([episode.actions for episode in episodes]),
        rewards=np.stack([episode.rewards for episode in episodes]),
        successes=np.stack([episode.successes for episode in episodes]).astype(np.uint8),
        behaviours=np.array([episode.info.behaviour for episode in episodes]),
        seeds=np.array([episode.info.seed for episode in episodes], np.int64),
        starts=np.array(list(itertools.product(range(len(episodes)), start_frames)), np.int64),
    )
    return path


def _take_turns(files: list[EpisodeFile]) -> list[EpisodeFile]:
    """The files reordered so that any first few hold every behaviour."""
    behaviours = sorted({file.info.behaviour for file in files})
    queues = [[file for file in files if file.info.behaviour == behaviour] for behaviour in behaviours]
    rounds = itertools.zip_longest(*queues)
    return [file for turn in rounds for file in turn if file is not None]


def _check_lengths(task: str, episodes: Sequence[Episode | EpisodeFile], start_frames: Sequence[int]) -> None:
    lengths = sorted({len(episode) for episode in episodes})
    if len(lengths) > 1:
        raise DataError(f"the start states of {task!r} need episodes of one length, got lengths {lengths}")
    _check_start_frames(task, lengths[0], start_frames)


def _check_start_frames(task: str, steps: int, start_frames: Sequence[int]) -> None:
    if not start_frames or min(start_frames) < 0 or max(start_frames) >= steps:
        raise DataError(f"episodes of {task!r} have {steps} steps: start frames {tuple(start_frames)} do not fit")


def _to_deltas(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames ``[T, ...]`` as differences to the frame before, modulo 256, which compress several times better."""
    deltas = frames.copy()
    deltas[1:] -= frames[:-1]
    return deltas


def _undo_deltas(deltas: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Inverse of :func:`_to_deltas` for a batch ``[E, T, ...]``."""
    if deltas.dtype != np.uint8:
        raise TypeError(f"expected deltas of uint8, got {deltas.dtype}")
    return np.cumsum(deltas, axis=1, dtype=np.uint8)
