"""What all foreign formats share: members, raw episodes, finding files, choosing a camera."""

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL.Image import open as open_image

from worldgym.errors import ConfigError, DataError, DependencyNotInstalled, nearest


class Member(NamedTuple):
    """One episode of a source.

    Attributes:
        name: unique in the source; the path of the converted episode below its folder, without the suffix.
        place: where the source finds it.
    """

    name: str
    place: tuple[Any, ...]


@dataclass(frozen=True)
class RawEpisode:
    """An episode of T steps as its format stores it.

    Attributes:
        frames: T + 1 pictures of any size; see :func:`worldgym.data.pictures.to_picture`. They are read one by one.
        task: name of the task, any text.
        actions: numbers ``[T, A]``, or ``[T]`` for A = 1; None where the format has none.
        rewards: numbers ``[T]``; None where they are unknown.
        successes: ``[T]``; None where they are unknown.
        terminated: whether the last step ended the episode, other than by a time limit.
        action_space: see :class:`worldgym.data.episode.EpisodeInfo`.
    """

    frames: Iterable[NDArray[Any]]
    task: str
    actions: NDArray[Any] | None = None
    rewards: NDArray[Any] | None = None
    successes: NDArray[Any] | None = None
    terminated: bool = False
    action_space: dict[str, Any] | None = None


class Source(Protocol):
    """Recordings in one format. Members may be read by several threads at once."""

    def members(self) -> list[Member]:
        """The episodes, listed without reading them.

        Raises:
            DataError: if the list cannot be read.
        """

    def read(self, member: Member) -> RawEpisode:
        """Read an episode.

        Raises:
            DataError: if this episode is damaged.
            ConfigError: if no episode can be read with the chosen options.
        """


def find_files(src: Path, suffixes: Sequence[str]) -> list[Path]:
    """``src`` itself if it is a file, else the files below it with one of the suffixes, sorted; no hidden ones."""
    if src.is_file():
        return [src] if src.suffix.lower() in suffixes else []
    found = [path for path in src.rglob("*") if path.suffix.lower() in suffixes and path.is_file()]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(src).parts))


def relative_name(path: Path, src: Path) -> str:
    """The path of a file below ``src``, with ``/`` as separator; the file's name if it is ``src``."""
    return path.name if path == src else path.relative_to(src).as_posix()


def folder_name(path: Path) -> str:
    """The name of the folder that holds a file: the task of formats that do not name one."""
    return path.absolute().parent.name


def choose_key(keys: Iterable[str], wanted: str | None, where: str) -> str:
    """The key of the pictures.

    Args:
        keys: of all pictures.
        wanted: the key that was asked for; None takes the only one.
        where: what has the keys, for error messages.

    Raises:
        DataError: if there is no picture, or none under the key.
        ConfigError: if there are several and none was asked for.
    """
    known = sorted(keys)
    if not known:
        raise DataError(f"{where}: expected pictures, found none; only recordings with a camera can be converted")
    if wanted is not None:
        if wanted not in known:
            raise DataError(f"{where}: expected pictures under {wanted!r}, found none; {nearest(wanted, known)}")
        return wanted
    if len(known) > 1:
        raise ConfigError(f"{where}: there are several cameras; choose one with --image-key: {', '.join(known)}")
    return known[0]


def read_picture(file: Path | BinaryIO) -> NDArray[np.uint8]:
    """Decode a PNG, JPEG or other picture file as uint8 ``[h, w, 3]``.

    Raises:
        OSError: if it is damaged or no picture.
    """
    with open_image(file) as image:
        return np.asarray(image.convert("RGB"))


def require(module: str) -> Any:
    """Import an optional package.

    Raises:
        DependencyNotInstalled: if it is missing; names what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise DependencyNotInstalled(
            f"this format needs the package {package} ({error}): pip install 'worldgym[convert]'"
        ) from error
