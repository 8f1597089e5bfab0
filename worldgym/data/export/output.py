"""What the formats share: checks of the recordings, reading frames in blocks, and writing a folder in one step."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldgym.data.episode import EpisodeFile
from worldgym.data.recordings import Recordings
from worldgym.errors import ConfigError, DataError
from worldgym.storage.files import writing

MARKER = ".worldgym-export"
BLOCK_BYTES = 4_000_000  # of frames that are in memory at once


def check_steps(recordings: Recordings) -> None:
    """Check that every episode has a step.

    Raises:
        DataError: if one has none; the message names it.
    """
    for episode in recordings.episodes:
        if not len(episode):
            raise DataError(f"{episode.path}: expected an episode of at least one step, got none; take it out")


def frame_blocks(episode: EpisodeFile, count: int) -> Iterator[NDArray[np.uint8]]:
    """Read the first frames of an episode, some at a time.

    Args:
        episode: the episode.
        count: number of frames.

    Yields:
        Consecutive frames, uint8 ``[N, H, W, 3]``, ``count`` of them in all.

    Raises:
        DataError: if the file cannot be read any more.
    """
    length = max(1, BLOCK_BYTES // int(np.prod(episode.shape[1:])))
    for start in range(0, count, length):
        yield episode.frames(start, min(start + length, count))


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a folder with subfolders, all or nothing.

    Args:
        path: the folder: missing, or empty.

    Yields:
        A folder beside it, ``.NAME.partial``, to write to. After the block it is renamed; after an error it is removed.
        One that a killed process left there is removed first.

    Raises:
        ConfigError: if there is something under ``path``, or something else under the name of the folder beside it.
        StorageError: if the folder cannot be written.
    """
    target = Path(path).expanduser().absolute()
    partial = target.parent / f".{target.name}.partial"
    check_free(target)
    if partial.exists() and not (partial / MARKER).is_file():
        raise ConfigError(
            f"{partial}: expected nothing, or what an interrupted export left there, found something else; move it "
            "elsewhere"
        )
    with writing(target):
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        try:
            (partial / MARKER).touch()
            yield partial
            for file in partial.rglob("*"):
                _flush(file)
            if target.exists():
                target.rmdir()  # it is empty; not every system renames over an empty folder
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        (target / MARKER).unlink()  # after the rename, so that a folder without it is never half written


def check_free(path: Path) -> None:
    """Check that nothing would be overwritten.

    Raises:
        ConfigError: if ``path`` is a file, or a folder that is not empty.
    """
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        found = "a file" if not path.is_dir() else ", ".join(sorted(entry.name for entry in path.iterdir())[:5])
        raise ConfigError(f"{path}: expected a new or an empty folder, found {found}; choose another folder")


def _flush(path: Path) -> None:
    if path.is_file():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
