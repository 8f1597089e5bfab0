"""Minari datasets in Arrow or Parquet: ``data/N/part-0.arrow``, a table for each episode, and ``data/metadata.json``.

A table has a row for every observation, and so one more than there are actions; the other columns are filled up in the
last row. Pictures are JPEG files, or pixels in a row, whose shape is in the metadata alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldgym.data.convert.hdf5 import numbered
from worldgym.data.convert.minari_actions import encode
from worldgym.data.convert.source import Member, RawEpisode, choose_key, read_picture, require
from worldgym.errors import DataError

SUFFIXES = (".arrow", ".parquet")
EPISODES = "[0-9]*/part-0"
COLUMNS = ("observations", "actions", "rewards", "terminations")


@dataclass(frozen=True)
class MinariTables:
    """The folder ``data`` of a dataset.

    Attributes:
        folder: the folder.
        image_key: of the pictures among the observations.
        observation_space: as Minari describes it.
        action_space: likewise.
        task: id of the environment, or the dataset's name.
    """

    folder: Path
    image_key: str | None
    observation_space: dict[str, Any]
    action_space: dict[str, Any]
    task: str

    def members(self) -> list[Member]:
        """The episodes."""
        paths = {path.parent.name: path for suffix in SUFFIXES for path in self.folder.glob(f"{EPISODES}{suffix}")}
        return [Member(f"episode_{name}", (paths[name],)) for name in numbered(paths)]

    def read(self, member: Member) -> RawEpisode:
        """Read an episode."""
        (path,) = member.place
        table = require("pyarrow.dataset").dataset(path, format=path.suffix[1:]).to_table()
        if missing := sorted(set(COLUMNS) - set(table.column_names)):
            raise DataError(f"{path}: expected the columns {', '.join(COLUMNS)}, found no {', '.join(missing)}")
        observations, actions, rewards, ends = (table[name].combine_chunks() for name in COLUMNS)
        cameras = dict(self._cameras(observations, self.observation_space))
        frames = cameras[choose_key(cameras, self.image_key, f"{path}: observations")]
        steps = max(0, len(table) - 1)
        vectors, described = encode(_values(actions, self.action_space)[:steps], self.action_space)
        ended = bool(ends.to_numpy(zero_copy_only=False)[steps - 1 : steps].any())
        return RawEpisode(
            frames, self.task, vectors, rewards.to_numpy()[:steps], terminated=ended, action_space=described
        )

    def _cameras(
        self, column: Any, space: dict[str, Any], name: str = ""
    ) -> Iterable[tuple[str, Iterable[NDArray[np.uint8]]]]:
        """Names and pictures of the observations that are pictures, at any depth."""
        types, kind = require("pyarrow").types, column.type
        if types.is_struct(kind):
            parts = space.get("subspaces", {})
            for field in kind:
                inner = parts[int(field.name)] if isinstance(parts, list) else parts.get(field.name, {})
                yield from self._cameras(column.field(field.name), inner, f"{name}/{field.name}".lstrip("/"))
        elif types.is_binary(kind):
            yield name or "observations", (read_picture(BytesIO(cell.as_py())) for cell in column)
        elif space.get("dtype") == "uint8" and len(space.get("shape", ())) in (2, 3):
            yield name or "observations", _values(column, space)


def table_folders(src: Path) -> list[Path]:
    """The folders ``data`` of all such datasets at any depth below a folder."""
    found = {path.parent.parent for suffix in SUFFIXES for path in src.rglob(f"{EPISODES}{suffix}")}
    return sorted(found)


def _values(column: Any, space: dict[str, Any]) -> NDArray[Any]:
    """The numbers of a column, ``[N, *shape]``."""
    types, kind = require("pyarrow").types, column.type
    if types.is_fixed_size_list(kind):
        values: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(column), *space.get("shape", (-1,)))
    if not types.is_primitive(kind):
        raise DataError(f"expected numbers in a column, got {kind}; only a Box or Discrete space can be converted")
    numbers: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return numbers
