"""Demonstrations in HDF5 as robomimic stores them, and LIBERO and VP2 after it: ``data/demo_N`` in one or more files.

``obs/KEY`` holds what the robot saw before each action; the result of the last one is in ``next_obs/KEY`` or, where
that is missing, unknown, so that the action is left out. LIBERO's files (with ``macros_image_convention``) differ: a
picture was taken after the action beside it, so the first action is left out, and the convention ``opengl`` says that
pictures are upside down; they are turned. Actions are taken as they are, as a rule in [-1, 1].
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldgym.data.convert.hdf5 import numbered, open_hdf5, picture_keys, read_frames
from worldgym.data.convert.source import Member, RawEpisode, Source, choose_key, find_files, relative_name
from worldgym.errors import DataError

SUFFIXES = (".hdf5", ".h5")
CONVENTION = "macros_image_convention"  # an attribute in the files of LIBERO


@dataclass(frozen=True)
class RobomimicSource:
    """A file, or a folder with files at any depth."""

    src: Path
    image_key: str | None

    def members(self) -> list[Member]:
        """The demonstrations of all files; a file that cannot be opened is one member, which cannot be read."""
        members = []
        for path in find_files(self.src, SUFFIXES):
            name = relative_name(path, self.src)
            try:
                with open_hdf5(path) as file:
                    demos = numbered(_demos(file, path))
            except DataError:
                members.append(Member(name, (path, None)))
            else:
                members += [Member(f"{name}/{demo}", (path, demo)) for demo in demos]
        return members

    def read(self, member: Member) -> RawEpisode:
        """Read a demonstration."""
        path, name = member.place
        with open_hdf5(path) as file:
            demo = _demos(file, path)[name]
            key = choose_key(picture_keys(demo["obs"]), self.image_key, f"{path}: data/{name}/obs")
            count, attributes = len(demo["obs"][key]), dict(file["data"].attrs)
            following = f"next_obs/{key}" in demo
            steps = {part: demo[part][()] for part in ("actions", "rewards", "dones") if part in demo}
        if "actions" not in steps:
            raise DataError(f"{path}: expected data/{name}/actions, found none")
        for part, values in steps.items():
            if len(values) != count:
                raise DataError(f"expected one of the {part} for each of {count} pictures, got {len(values)}")
        return _aligned(path, f"data/{name}", key, steps, attributes, following)


def open_source(src: Path, image_key: str | None) -> Source:
    """Open a file or folder."""
    return RobomimicSource(src, image_key)


def _demos(file: Any, path: Path) -> Any:
    """The group with the demonstrations."""
    if "data" not in file or not hasattr(file["data"], "keys"):
        raise DataError(f"{path}: expected a group data with demonstrations, found {', '.join(file) or 'nothing'}")
    return file["data"]


def _aligned(
    path: Path, place: str, key: str, steps: dict[str, NDArray[Any]], attributes: dict[str, Any], following: bool
) -> RawEpisode:
    """The episode, in which every action leads to the picture after it."""
    frames: Iterable[NDArray[np.uint8]] = read_frames(path, f"{place}/obs/{key}")
    kept, ends = slice(-1), False
    if CONVENTION in attributes:
        kept, ends = slice(1, None), True
        if attributes[CONVENTION] in ("opengl", b"opengl"):
            frames = (frame[::-1] for frame in frames)
    elif following and len(steps["actions"]):
        kept, ends = slice(None), True
        frames = chain(frames, read_frames(path, f"{place}/next_obs/{key}", len(steps["actions"]) - 1))
    rewards, dones = steps.get("rewards"), steps.get("dones")
    return RawEpisode(
        frames,
        _task(attributes, path),
        steps["actions"][kept],
        None if rewards is None else rewards[kept],
        terminated=ends and dones is not None and bool(dones[-1:].any()),
    )


def _task(attributes: dict[str, Any], path: Path) -> str:
    """LIBERO's instruction, or the name of robomimic's environment, or of the file."""
    for attribute, entry in (("problem_info", "language_instruction"), ("env_args", "env_name")):
        try:
            found = json.loads(attributes[attribute])[entry]
        except (LookupError, TypeError, ValueError):
            continue
        return "".join(found) if isinstance(found, list) else str(found)
    return path.stem
