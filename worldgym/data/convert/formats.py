"""The formats that can be converted, and how to tell which one a file or folder has."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from worldgym.data.convert.hdf5 import open_hdf5
from worldgym.data.convert.something_something import is_list
from worldgym.data.convert.source import Source
from worldgym.errors import ConfigError, DataError, WorldGymError, nearest

Check = Callable[[Path], bool | None]


class Format(NamedTuple):
    """A format.

    Attributes:
        content: what its files are, for error messages.
        patterns: glob patterns; one of them matches a file below the folder.
        own: whether these files belong to no other format, so that a folder with them has this one.
        check: whether such a file is of this format by its content; None from a file that does not tell. The first file
            that tells decides.
    """

    content: str
    patterns: tuple[str, ...]
    own: bool = False
    check: Check | None = None


def _has_groups(pattern: str) -> Check:
    """A check of HDF5 files: whether a name at the top matches a regular expression; None for a damaged file."""

    def check(path: Path) -> bool | None:
        try:
            with open_hdf5(path) as file:
                return any(re.fullmatch(pattern, name) for name in file)
        except WorldGymError:
            return None

    return check


VIDEOS = ("mp4", "webm", "gif", "MP4", "WEBM", "GIF")
FORMATS = {
    "lerobot": Format("a LeRobot dataset (meta/info.json)", ("meta/info.json",), own=True),
    "rlds": Format("TFRecord shards with features.json", ("**/features.json", "**/*.tfrecord-*"), own=True),
    "bair": Format("BAIR's TFRecord files (*.tfrecords)", ("**/*.tfrecords",), own=True),
    "minari": Format(
        "a Minari dataset (main_data.hdf5, or a folder with part-0.arrow for each episode)",
        ("**/main_data.hdf5", "**/[0-9]*/part-0.arrow", "**/[0-9]*/part-0.parquet"),
        own=True,
    ),
    "robonet": Format("RoboNet's HDF5 files (env, policy)", ("**/*.hdf5",), own=True, check=_has_groups("policy")),
    "maniskill": Format("ManiSkill's trajectories (*.h5)", ("**/*.h5",), own=True, check=_has_groups(r"traj_\d+")),
    "something-something": Format(
        "a Something-Something list of videos (*.json)",
        ("**/*.json",),
        own=True,
        check=lambda path: is_list(path) or None,
    ),
    "robomimic": Format("HDF5 files (*.hdf5, *.h5)", ("**/*.hdf5", "**/*.h5")),
    "npz": Format("npz files", ("**/*.npz",)),
    "video": Format("videos (*.mp4, *.webm, *.gif)", tuple(f"**/*.{name}" for name in VIDEOS)),
}
"""By name. Where a folder looks like several, the first one names it; ``robomimic`` takes any HDF5 file."""
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
    other = bool(looks) and FORMATS[looks[0]].own and looks[0] != name
    if other or _matches(src, FORMATS[name]) is False:
        raise DataError(f"{src}: expected {FORMATS[name].content}, {_found(src, looks)}")
    module = importlib.import_module(f"worldgym.data.convert.{name.replace('-', '_')}")
    source: Source = module.open_source(src, image_key)
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


def _matches(src: Path, form: Format) -> bool | None:
    """Whether a file or folder has a format; None if there are files of its names, but their content does not tell."""
    patterns = form.patterns
    if src.is_file():
        files = iter([src] if any(src.match(pattern.removeprefix("**/")) for pattern in patterns) else [])
    else:
        files = (path for pattern in patterns for path in src.glob(pattern))
    if form.check is None:
        return next(files, None) is not None
    told, some = None, False
    for path in files:
        some = True
        if (told := form.check(path)) is not None:
            break
    return told if some else False


def _found(src: Path, looks: list[str]) -> str:
    if looks:
        return f"but it looks like {FORMATS[looks[0]].content}: `worldgym convert {looks[0]} {src} --out DATA`"
    if _matches(src, EPISODES):
        return f"but it looks like {EPISODES.content}"
    names = [src.name] if src.is_file() else sorted(path.name for path in src.iterdir())
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"found {shown or 'an empty folder'}; the formats are {', '.join(FORMATS)}"
