"""RoboNet: one HDF5 file an episode, with a video or JPEG files for each camera.

``env/camN_video/frames`` holds the bytes of an MP4 file, or ``env/camN_video/frame0``, ``frame1``, ... those of JPEG
files; ``policy/actions`` one action less. The attribute ``image_format`` names the order of the colours that RoboNet's
own loader gets. Actions are taken as they are. A robot that closed its gripper by a reflex (``autograsp``) has no
action for it; as RoboNet's loader can, one is appended: the upper or lower bound, whichever the gripper's next state is
nearer to. Otherwise robots with actions of another length need a folder of their own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldgym.data.convert.hdf5 import numbered, open_hdf5
from worldgym.data.convert.source import (
    Member,
    RawEpisode,
    Source,
    choose_key,
    find_files,
    folder_name,
    read_picture,
    relative_name,
)
from worldgym.data.convert.video import video_frames
from worldgym.errors import DataError

SUFFIX, CAMERA = ".hdf5", "_video"
AUTOGRASP = "autograsp"


@dataclass(frozen=True)
class RoboNetSource:
    """A file, or a folder with files at any depth."""

    src: Path
    image_key: str | None

    def members(self) -> list[Member]:
        """The files."""
        found = find_files(self.src, (SUFFIX,))
        return [Member(relative_name(path, self.src)[: -len(SUFFIX)], (path,)) for path in found]

    def read(self, member: Member) -> RawEpisode:
        """Read a file."""
        (path,) = member.place
        with open_hdf5(path) as file:
            for group in ("env", "policy/actions"):
                if group not in file:
                    raise DataError(f"{path}: expected {group}, found {', '.join(file) or 'nothing'}")
            cameras = [name.removesuffix(CAMERA) for name in file["env"] if name.endswith(CAMERA)]
            camera = choose_key(cameras, self.image_key, str(path))
            pictures = file[f"env/{camera}{CAMERA}"]
            names, video = numbered(pictures), "frames" in pictures
            if names != ["frames"] and names != [f"frame{index}" for index in range(len(names))]:
                raise DataError(f"{path}: expected frames, or frame0 to frameN, of {camera}; got {_shown(names)}")
            encoded = [pictures[name][()].tobytes() for name in names]
            described = dict(pictures[names[0]].attrs)
            about, actions = _described(file), file["policy/actions"][()]
            if about.get("primitives") == AUTOGRASP:
                actions = _with_gripper(actions, file["env/state"][()], about)
        count = min(int(described["T"]) if video else len(encoded), len(actions) + 1)
        # The loader decodes videos as RGB and JPEG files as BGR, so that the name of the order means one or the other.
        turned = (_text(described.get("image_format", "RGB")) == "BGR") == video
        frames: Iterable[NDArray[np.uint8]] = (
            _decoded(encoded[0]) if video else map(read_picture, map(BytesIO, encoded))
        )
        ordered = (frame[..., ::-1] if turned else frame for frame in islice(frames, count))
        return RawEpisode(ordered, str(about.get("robot") or folder_name(path)), actions[: count - 1])


def open_source(src: Path, image_key: str | None) -> Source:
    """Open a file or folder. The cameras are ``cam0``, ``cam1``, ..."""
    return RoboNetSource(src, image_key)


def _decoded(content: bytes) -> Iterator[NDArray[np.uint8]]:
    """The frames of a video in memory: an MP4 file is read back and forth, so that it cannot be a stream."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "frames.mp4"
        path.write_bytes(content)
        yield from video_frames(path)


def _described(file: Any) -> dict[str, Any]:
    """What the file says of the robot: bounds of its state, its name and how it was controlled."""
    found = {name: file[f"env/{name}"][0] for name in ("low_bound", "high_bound") if f"env/{name}" in file}
    found |= {name: values[()] for name, values in file.get("misc", {}).items()}
    found |= dict(file["metadata"].attrs) if "metadata" in file else {}
    return {name: _text(value) for name, value in found.items()}


def _with_gripper(actions: NDArray[Any], states: NDArray[Any], about: dict[str, Any]) -> NDArray[Any]:
    """Actions with one for the gripper."""
    low, high = (float(np.ravel(about[name])[-1]) for name in ("low_bound", "high_bound"))
    after = states[1 : len(actions) + 1, -1]
    if len(after) != len(actions):
        raise DataError(f"expected a state after each of {len(actions)} actions, got {len(after)}")
    return np.column_stack([actions, np.where(after > (low + high) / 2, high, low)])


def _shown(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "none"


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
