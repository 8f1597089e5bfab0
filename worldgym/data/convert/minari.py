"""Minari datasets in HDF5: ``data/main_data.hdf5`` with a group for each episode, read without the ``minari`` package.

Observations are the pictures, or contain them, as arrays or as JPEG files (from Minari 0.5.4 on). There is one more
than actions, so no step is left out. Actions of a ``Box`` are scaled to [-1, 1] by its bounds where they are finite,
those of ``Discrete`` become one-hot vectors, and episodes say so, as those recorded from Gymnasium environments do.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldgym.data.convert.hdf5 import numbered, open_hdf5, picture_keys, read_frames
from worldgym.data.convert.source import Member, RawEpisode, Source, choose_key
from worldgym.errors import ConfigError, DataError
from worldgym.storage.files import read_json

FILE, METADATA = "main_data.hdf5", "metadata.json"
OBSERVATIONS = "observations"
EPISODE = "episode_"


@dataclass(frozen=True)
class MinariSource:
    """The main file of a dataset.

    Attributes:
        path: the file.
        image_key: of the pictures among the observations.
        space: the action space, as Minari describes it.
        task: id of the environment, or the dataset's name.
    """

    path: Path
    image_key: str | None
    space: dict[str, Any]
    task: str

    def members(self) -> list[Member]:
        """The episodes."""
        with open_hdf5(self.path) as file:
            return [Member(name, (name,)) for name in numbered(file) if name.startswith(EPISODE)]

    def read(self, member: Member) -> RawEpisode:
        """Read an episode."""
        (name,) = member.place
        with open_hdf5(self.path) as file:
            episode = file[name]
            if OBSERVATIONS not in episode:
                raise DataError(f"{self.path}: expected {name}/{OBSERVATIONS}, found {', '.join(episode) or 'nothing'}")
            key = self._key(episode, name)
            actions = episode["actions"]
            if hasattr(actions, "keys"):
                raise DataError(f"{self.path}: expected actions of a Box or Discrete space, got several in one")
            values, rewards = actions[()], episode["rewards"][()]
            ended = bool(episode["terminations"][-1:].any())
        vectors, described = encode(values, self.space)
        return RawEpisode(
            read_frames(self.path, f"{name}/{key}"),
            self.task,
            vectors,
            rewards,
            terminated=ended,
            action_space=described,
        )

    def _key(self, episode: Any, name: str) -> str:
        found, where = episode[OBSERVATIONS], f"{self.path}: {name}/{OBSERVATIONS}"
        if not hasattr(found, "keys"):  # observations that are pictures themselves; reading others will say so
            return choose_key([OBSERVATIONS], self.image_key, where)
        return f"{OBSERVATIONS}/{choose_key(picture_keys(found), self.image_key, where)}"


def open_source(src: Path, image_key: str | None) -> Source:
    """Open the folder of a dataset, at any depth below ``src``, or its main file.

    Raises:
        ConfigError: if there are several datasets.
        DataError: if the main file cannot be read.
        DependencyNotInstalled: if h5py is missing.
    """
    found = [src] if src.is_file() else sorted(src.rglob(FILE))
    if len(found) > 1:
        raise ConfigError(f"{src}: there are several datasets; choose one of them: {', '.join(map(str, found))}")
    path = found[0]
    metadata = read_json(path.parent / METADATA) if (path.parent / METADATA).exists() else {}
    with open_hdf5(path) as file:  # older versions have the same entries there
        described = {**dict(file.attrs), **metadata}
    space, spec = (_object(described.get(name)) for name in ("action_space", "env_spec"))
    task = spec.get("id") or described.get("dataset_id") or path.absolute().parent.parent.name
    return MinariSource(path, image_key, space, str(task))


def encode(actions: NDArray[Any], space: dict[str, Any]) -> tuple[NDArray[Any], dict[str, Any]]:
    """Actions as vectors, and the description of their space that episodes store.

    Args:
        actions: ``[T, *shape]``.
        space: the action space, as Minari describes it; empty if it is unknown.

    Returns:
        Vectors ``[T, A]``, and a description; an empty one for vectors that are in [-1, 1] or not scaled.

    Raises:
        DataError: for actions outside the space, or of another kind of space.
    """
    kind, flat = space.get("type", "Box"), actions.reshape(len(actions), int(np.prod(actions.shape[1:])))
    if kind == "Discrete":
        count, start = int(space["n"]), int(space.get("start", 0))
        chosen = flat.reshape(-1) - start
        if flat.size != len(actions) or chosen.min(initial=0) < 0 or chosen.max(initial=0) >= count:
            raise DataError(f"expected actions from {start} to {start + count - 1}, got others")
        return np.eye(count, dtype=np.float32)[chosen], {"kind": "Discrete", "n": count, "start": start}
    if kind != "Box":
        raise DataError(f"expected actions of a Box or Discrete space, got {kind}")
    low, high = (np.ravel(np.array(space.get(name, unit), np.float64)) for name, unit in (("low", -1), ("high", 1)))
    if not (np.isfinite(low).all() and np.isfinite(high).all()) or ((low == -1).all() and (high == 1).all()):
        return flat, {}
    if flat.shape[1:] != low.shape or low.shape != high.shape:
        raise DataError(f"expected actions of length {len(low)} as their space has, got length {flat.shape[1]}")
    half = (high - low) / 2
    scaled = np.clip((flat - (high + low) / 2) / np.where(half > 0, half, 1), -1, 1)
    bounds = {"low": low.tolist(), "high": high.tolist()}
    return scaled, {"kind": "Box", "shape": list(actions.shape[1:]), "dtype": str(space["dtype"]), **bounds}


def _object(value: Any) -> dict[str, Any]:
    """A JSON object, given as itself or as text; empty for anything else."""
    try:
        found = json.loads(value) if isinstance(value, (str, bytes)) else value
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
