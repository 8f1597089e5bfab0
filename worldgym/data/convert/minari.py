"""Minari datasets, read without the ``minari`` package: in HDF5, ``data/main_data.hdf5`` with a group for each episode,
or in Arrow or Parquet, for which :mod:`worldgym.data.convert.minari_tables` has the reader.

Observations are the pictures, or contain them, as arrays or as JPEG files (from Minari 0.5.4 on). There is one more
than actions, so no step is left out. Actions of a ``Box`` are scaled to [-1, 1] by its bounds where they are finite,
those of ``Discrete`` become one-hot vectors, and episodes say so, as those recorded from Gymnasium environments do.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldgym.data.convert.hdf5 import numbered, open_hdf5, picture_keys, read_frames
from worldgym.data.convert.minari_actions import encode
from worldgym.data.convert.minari_tables import MinariTables, table_folders
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
        DependencyNotInstalled: if h5py or pyarrow is missing.
    """
    found = [src] if src.is_file() else [*sorted(src.rglob(FILE)), *table_folders(src)]
    if len(found) > 1:
        raise ConfigError(f"{src}: there are several datasets; choose one of them: {', '.join(map(str, found))}")
    path = found[0]
    metadata = (path if path.is_dir() else path.parent) / METADATA
    described = read_json(metadata) if metadata.exists() else {}
    if path.is_file():
        with open_hdf5(path) as file:  # older versions have the same entries there
            described = {**dict(file.attrs), **described}
    observations, actions, spec = (
        _object(described.get(name)) for name in ("observation_space", "action_space", "env_spec")
    )
    task = str(spec.get("id") or described.get("dataset_id") or metadata.absolute().parent.parent.name)
    if path.is_dir():
        return MinariTables(path, image_key, observations, actions, task)
    return MinariSource(path, image_key, actions, task)


def _object(value: Any) -> dict[str, Any]:
    """A JSON object, given as itself or as text; empty for anything else."""
    try:
        found = json.loads(value) if isinstance(value, (str, bytes)) else value
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
