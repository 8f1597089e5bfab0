"""The formats that can be converted, and how to tell which one a file or folder has."""

import importlib
from pathlib import Path
from typing import NamedTuple

from worldgym.data.convert.source import Source
from worldgym.errors import ConfigError, DataError, nearest


class Format(NamedTuple):
    """A format.

    Attributes:
        content: what its files are, for error messages.
        patterns: glob patterns; one of them matches a file below the folder.
        own: whether these files belong to no other format, so that a folder with them has this one.
    """

    content: str
    patterns: tuple[str, ...]
    own: bool = False


FORMATS = {
    "lerobot": Format("a LeRobot dataset (meta/info.json)", ("meta/info.json",), own=True),
    "rlds": Format("TFRecord shards with features.json", ("**/features.json", "**/*.tfrecord*"), own=True),
    "minari": Format("a Minari dataset (main_data.hdf5)", ("**/main_data.hdf5",), own=True),
    "robomimic": Format("HDF5 files (*.hdf5, *.h5)", ("**/*.hdf5", "**/*.h5")),
    "npz": Format("npz files", ("**/*.npz",)),
    "video": Format("videos (*.mp4, *.gif)", ("**/*.mp4", "**/*.gif", "**/*.MP4", "**/*.GIF")),
}
"""By name. Where a folder looks like several, the first one names it."""
EPISODES = Format("worldgym's own episodes, which need no conversion", ("**/*.safetensors",))


def open_source(name: str, src: Path, image_key: str | None = None) -> Source:
    """Open recordings of a format.

    Args:
        name: of the format.
        src: a file or folder.
        image_key: name of the camera where there are several.

    Raises:
        ConfigError: for an unknown format, or a camera that has to be chosen.
        DataError: if there is nothing, or something else; says what it looks like.
        DependencyNotInstalled: if a package is missing.
    """
    check_format(name)
    looks = looks_like(src)
    if name not in looks or (FORMATS[looks[0]].own and looks[0] != name):
        raise DataError(f"{src}: expected {FORMATS[name].content}, {_found(src, looks)}")
    source: Source = importlib.import_module(f"worldgym.data.convert.{name}").open_source(src, image_key)
    return source


def check_format(name: str) -> None:
    """Raise ConfigError unless ``name`` is a format."""
    if name not in FORMATS:
        raise ConfigError(f"unknown format {name!r}; {nearest(name, FORMATS)}")


def looks_like(src: Path) -> list[str]:
    """Names of the formats whose files are there, the most telling one first.

    Raises:
        DataError: if ``src`` does not exist.
    """
    if not src.exists():
        raise DataError(f"{src}: expected a file or folder of recordings, found nothing; check the path")
    return [name for name, form in FORMATS.items() if _matches(src, form)]


def _matches(src: Path, form: Format) -> bool:
    if src.is_file():
        return any(src.match(pattern.removeprefix("**/")) for pattern in form.patterns)
    return any(next(src.glob(pattern), None) is not None for pattern in form.patterns)


def _found(src: Path, looks: list[str]) -> str:
    if looks:
        return f"but it looks like {FORMATS[looks[0]].content}: `worldgym convert {looks[0]} {src} --out DATA`"
    if _matches(src, EPISODES):
        return f"but it looks like {EPISODES.content}"
    names = [src.name] if src.is_file() else sorted(path.name for path in src.iterdir())
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"found {shown or 'an empty folder'}; the formats are {', '.join(FORMATS)}"
