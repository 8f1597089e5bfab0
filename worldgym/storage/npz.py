"""Reading and writing ``.npz`` files. Every failure raises an error that names the file and what to do."""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from worldgym.errors import CheckpointError, WorldGymError
from worldgym.storage.files import atomic_write

# What NumPy and the code that reads entries raise for files that are missing, damaged or of another format.
_UNREADABLE = (OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, BadZipFile, zlib.error)


@contextmanager
def open_npz(
    path: str | os.PathLike[str], content: str, advice: str, *, error: type[WorldGymError] = CheckpointError
) -> Iterator[Any]:
    """Open an npz file for reading single arrays. Pickled objects are refused.

    Args:
        path: the file.
        content: what the file should hold, such as ``"file of start states"``, for error messages.
        advice: what to do if it cannot be read.
        error: the class of errors to raise.

    Yields:
        The open file, as :func:`numpy.load` gives it.

    Raises:
        error: if the file is missing or damaged, or if the code inside asks for an entry that is not there.
    """
    try:
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            yield file
    except _UNREADABLE as cause:
        raise error(f"{path}: not a readable {content} ({cause}); {advice}") from cause


def write_npz(path: Path, **arrays: Any) -> None:
    """Write arrays, compressed and atomically.

    Raises:
        StorageError: if the file cannot be written.
    """
    with atomic_write(path) as temporary, temporary.open("wb") as out:
        np.savez_compressed(out, **arrays)
