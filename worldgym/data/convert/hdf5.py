"""What the formats in HDF5 share."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldgym.data.convert.source import read_picture, require
from worldgym.errors import DataError

FRAMES = 32  # read at once
JPEG_START = b"\xff\xd8"


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open a file for reading.

    Yields:
        The ``h5py.File``.

    Raises:
        DataError: if it is damaged or no HDF5 file.
        DependencyNotInstalled: if h5py is missing.
    """
    h5py = require("h5py")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: not a readable HDF5 file ({error}); leave it out or download it again") from error
    with file:
        yield file


def numbered(names: Any) -> list[str]:
    """Names sorted by the numbers in them, so that ``demo_10`` comes after ``demo_9``."""
    return sorted(names, key=lambda name: [(part.zfill(20), part) for part in re.split(r"(\d+)", name)])


def picture_keys(group: Any) -> list[str]:
    """Names of the data sets of a group, at any depth, that :func:`read_frames` can read."""
    found: list[str] = []
    group.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") and _has_pictures(item) else None)
    return found


def read_frames(path: Path, name: str, start: int = 0) -> Iterator[NDArray[np.uint8]]:
    """The pictures of a data set from index ``start`` on, one by one; a few are in memory at a time.

    It holds arrays, uint8 ``[N, h, w]`` or ``[N, h, w, c]``, or JPEG files, as bytes of equal or different lengths.
    """
    with open_hdf5(path) as file:
        encoded = _has_jpegs(file[name])
        for first in range(start, len(file[name]), FRAMES):
            for picture in file[name][first : first + FRAMES]:
                yield read_picture(BytesIO(picture.tobytes())) if encoded else picture


def _has_pictures(data: Any) -> bool:
    shape: tuple[int, ...] = data.shape
    arrays = data.dtype == np.uint8 and (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3, 4)))
    return bool(arrays or _has_jpegs(data))


def _has_jpegs(data: Any) -> bool:
    lengths_differ = data.ndim == 1 and require("h5py").check_vlen_dtype(data.dtype) == np.uint8
    if not len(data) or not (lengths_differ or (data.ndim == 2 and data.dtype == np.uint8)):
        return False
    return bytes(data[0][:2]) == JPEG_START
