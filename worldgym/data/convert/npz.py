"""npz episodes as the reference implementation of iVideoGPT stores them: one file an episode, of one of two kinds.

- Robot recordings: pictures ``[N, h, w, 3]`` under ``image``, a name that ends in ``_image`` or the one that is asked
  for, and ``action`` ``[N, A]``, if there is one. An action leads to the picture after it, so the last one is left out.
- Replay of an agent: ``observation`` ``[N, 3 k, h, w]``, the newest of k pictures last, ``action``, ``reward`` and
  ``discount``. Here an action led to the picture beside it, so the first one is left out. A discount of 0 is an end.

Actions are taken as they are.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldgym.data.convert.source import Member, RawEpisode, Source, choose_key, find_files, folder_name, relative_name
from worldgym.errors import DataError
from worldgym.storage.npz import open_npz

SUFFIX = ".npz"
REPLAY = "observation"
STEPS = ("action", "reward", "discount")


@dataclass(frozen=True)
class NpzSource:
    """A file, or a folder with files at any depth."""

    src: Path
    image_key: str | None

    def members(self) -> list[Member]:
        """The files."""
        found = find_files(self.src, (SUFFIX,))
        return [Member(relative_name(path, self.src)[: -len(SUFFIX)], (path,)) for path in found]

    def read(self, member: Member) -> RawEpisode:
        """Read a file; see the module."""
        (path,) = member.place
        with open_npz(path, "npz episode", "leave it out", error=DataError) as file:
            names = list(file.files)
        pictures = [name for name in names if name in ("image", REPLAY, self.image_key) or name.endswith("_image")]
        key = choose_key(pictures, self.image_key, str(path))
        with open_npz(path, "npz episode", "leave it out", error=DataError) as file:
            frames, arrays = file[key], {name: file[name] for name in STEPS if name in names}
        read = _replay if key == REPLAY else _robot
        return read(frames, arrays, folder_name(path))


def open_source(src: Path, image_key: str | None) -> Source:
    """Open a file or folder."""
    return NpzSource(src, image_key)


def _robot(frames: NDArray[Any], arrays: dict[str, NDArray[Any]], task: str) -> RawEpisode:
    if "action" not in arrays:
        return RawEpisode(frames, task)
    _check_lengths(frames, arrays)
    rewards = arrays["reward"][:-1] if "reward" in arrays else None
    return RawEpisode(frames, task, arrays["action"][:-1], rewards)


def _replay(frames: NDArray[Any], arrays: dict[str, NDArray[Any]], task: str) -> RawEpisode:
    _check_lengths(frames, arrays)
    if frames.ndim != 4 or frames.shape[1] % 3 or not frames.shape[1]:
        raise DataError(f"expected observations [N, 3 k, h, w] of a replay, got shape {list(frames.shape)}")
    if "action" not in arrays:
        raise DataError(f"expected the array action of a replay, got {', '.join(sorted(arrays)) or 'no other arrays'}")
    rewards, discounts = arrays.get("reward"), arrays.get("discount", np.ones(1))
    terminated = len(discounts) > 0 and float(np.ravel(discounts)[-1]) == 0
    newest = np.moveaxis(frames[:, -3:], 1, -1)
    return RawEpisode(
        newest, task, arrays["action"][1:], None if rewards is None else rewards[1:], terminated=terminated
    )


def _check_lengths(frames: NDArray[Any], arrays: dict[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        if array.shape[:1] != frames.shape[:1]:
            raise DataError(f"expected one {name} for each of {len(frames)} pictures, got shape {list(array.shape)}")
