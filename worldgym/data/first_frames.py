"""The first frames of a simulator's episodes: where a learned environment starts unless told otherwise.

They are a folder of ``.npz`` files, one a task. First frames of one task differ little, so a file holds differences:

    task     str   []             the task
    base     uint8 [H, W, 3]      one frame
    deltas   uint8 [N, H, W, 3]   differences of all frames to it, modulo 256
    seeds    int64 [N]            the simulator's ``reset(seed=seeds[i])`` shows frame i
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldgym.data.arrays import checked_frames
from worldgym.data.names import file_name
from worldgym.errors import CheckpointError, DataError, UnknownTask, nearest
from worldgym.storage.npz import open_npz, write_npz

CONTENT, ADVICE = "file of first frames", "write them again with `worldgym starts`"


@dataclass(frozen=True)
class TaskFrames:
    """First frames of one task: uint8 ``[N, H, W, 3]``, and the simulator's seeds, int64 ``[N]``."""

    frames: NDArray[np.uint8]
    seeds: NDArray[np.int64]


class FirstFrames:
    """Reads a folder of first frames. The file of a task is read at its first use and then kept in memory.

    Args:
        folder: the ``first_frames`` folder of a checkpoint.

    Attributes:
        tasks: names of the tasks, sorted.

    Raises:
        CheckpointError: if a file cannot be opened; one that is damaged further inside raises it at its first use.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._paths = {_stored_task(path): path for path in sorted(self.folder.glob("[!.]*.npz"))}
        self.tasks: tuple[str, ...] = tuple(sorted(self._paths))
        self._read: dict[str, TaskFrames] = {}

    def __getitem__(self, task: str) -> TaskFrames:
        """The first frames of a task.

        Raises:
            UnknownTask: if the task has none.
            CheckpointError: if the file is damaged.
        """
        if task not in self._paths:
            raise UnknownTask(f"{self.folder} has no first frames of task {task!r}; {nearest(task, self.tasks)}")
        if task not in self._read:
            self._read[task] = _read(self._paths[task])
        return self._read[task]


def write_first_frames(folder: Path, task: str, frames: NDArray[np.uint8], seeds: NDArray[np.int64]) -> Path:
    """Write the first frames of a task; an earlier file of the task is replaced.

    Args:
        folder: the ``first_frames`` folder of a checkpoint.
        task: the task.
        frames: uint8 ``[N, H, W, 3]``.
        seeds: int64 ``[N]``, with which the simulator's reset shows the frames.

    Returns:
        The file.

    Raises:
        DataError: for arrays of another shape or dtype, or none.
    """
    checked = checked_frames(frames)
    if not len(checked) or seeds.shape != (len(checked),):
        raise DataError(f"expected frames and as many seeds, got {len(checked)} frames and seeds {list(seeds.shape)}")
    path = Path(folder) / f"{file_name(task)}.npz"
    base = np.median(checked, axis=0).astype(np.uint8)  # most pixels of most frames equal it
    write_npz(path, task=np.array(task), base=base, deltas=checked - base, seeds=seeds.astype(np.int64))
    return path


def _stored_task(path: Path) -> str:
    with open_npz(path, CONTENT, ADVICE) as file:
        return str(file["task"])


def _read(path: Path) -> TaskFrames:
    with open_npz(path, CONTENT, ADVICE) as file:
        base, deltas, seeds = file["base"], file["deltas"], file["seeds"]
    fits = base.dtype == deltas.dtype == np.uint8 and deltas.ndim == 4 and deltas.shape[1:] == base.shape
    if not fits or base.shape[2:] != (3,) or seeds.shape != deltas.shape[:1] or not len(deltas):
        raise CheckpointError(
            f"{path}: expected deltas uint8 [N, H, W, 3], a base of that size and N seeds, got {deltas.dtype} "
            f"{deltas.shape}, {base.shape} and {seeds.shape}; {ADVICE}"
        )
    return TaskFrames(deltas + base, seeds.astype(np.int64))
