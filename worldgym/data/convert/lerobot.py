"""LeRobot datasets, v2.0, v2.1 and v3.0: tables as Parquet, cameras as MP4 or as PNG columns.

A row holds what the robot saw, and the action that it then took; ``next.reward`` and ``next.success`` came of it. The
result of an episode's last action is not recorded, so that action is left out. Actions are scaled to [-1, 1] by the
smallest and largest values in the dataset's statistics.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldgym.data.bounds import Bounds
from worldgym.data.convert.source import Member, RawEpisode, Source, choose_key, read_picture, require
from worldgym.data.convert.video import video_frames
from worldgym.errors import ConfigError, DataError
from worldgym.storage.files import read_json

ACTION, REWARD, SUCCESS = "action", "next.reward", "next.success"
INDICES = ("episode_index", "frame_index", "timestamp")
EARLY = 0.25  # frames before an episode's start from where a video is decoded: timestamps are rounded
Values = NDArray[np.float64]


@dataclass(frozen=True)
class LeRobotSource:
    """The folder of a dataset.

    Attributes:
        folder: the folder.
        info: content of ``meta/info.json``.
        episodes: description of each episode, from ``meta/episodes*``.
        camera: name of the pictures' feature.
        bounds: of the actions; None if there are none.
    """

    folder: Path
    info: dict[str, Any]
    episodes: list[dict[str, Any]]
    camera: str
    bounds: Bounds | None

    def members(self) -> list[Member]:
        """The episodes, by their indices."""
        return [Member(f"episode_{row['episode_index']:06d}", (row,)) for row in self.episodes]

    def read(self, member: Member) -> RawEpisode:
        """Read the rows and pictures of an episode."""
        (episode,) = member.place
        rows = self._rows(episode)
        steps = len(rows["frame_index"]) - 1
        actions = None
        if self.bounds is not None:
            actions = self.bounds.scale(_table_of_numbers(rows[ACTION], ACTION)[:steps])
        rewards, successes = (
            _column_of_numbers(rows[key], key)[:steps] if key in rows else None for key in (REWARD, SUCCESS)
        )
        task = "; ".join(map(str, episode.get("tasks") or [])) or self.folder.absolute().name
        return RawEpisode(self._frames(episode, rows), task, actions, rewards, successes)

    def _rows(self, episode: dict[str, Any]) -> dict[str, list[Any]]:
        """The columns that are needed, checked to be whole and in order."""
        parquet, index = require("pyarrow.parquet"), episode["episode_index"]
        path = self._path(self.info["data_path"], episode, "data")
        known = parquet.read_schema(path).names
        wanted = [name for name in (*INDICES, ACTION, REWARD, SUCCESS, self.camera) if name in known]
        rows: dict[str, list[Any]] = parquet.read_table(
            path, columns=wanted, filters=[("episode_index", "==", index)]
        ).to_pydict()
        count, length = len(rows["frame_index"]), episode.get("length")
        if rows["frame_index"] != list(range(count)) or (length is not None and length != count):
            raise DataError(f"expected rows 0 to {(length or count) - 1} in {path}, got {_shown(rows['frame_index'])}")
        if "timestamp" in rows and not (np.diff(_column_of_numbers(rows["timestamp"], "timestamp")) > 0).all():
            raise DataError(f"expected timestamps that rise in {path}, got {_shown(rows['timestamp'])}")
        return rows

    def _frames(self, episode: dict[str, Any], rows: dict[str, list[Any]]) -> Iterator[NDArray[np.uint8]]:
        if self.camera in rows:
            return (self._picture(cell) for cell in rows[self.camera])
        count = len(rows["frame_index"])
        path = self._path(self.info["video_path"], episode, f"videos/{self.camera}", video_key=self.camera)
        start = episode.get(f"videos/{self.camera}/from_timestamp")
        if start is None:  # a file for each episode: one frame more would show that it does not fit
            return video_frames(path, count=count + 1)
        return video_frames(path, max(0.0, start - EARLY / self.info["fps"]), count)

    def _picture(self, cell: dict[str, Any]) -> NDArray[np.uint8]:
        content = cell.get("bytes")
        return read_picture(self._inside(cell["path"]) if content is None else BytesIO(content))

    def _path(self, template: str, episode: dict[str, Any], part: str, **names: str) -> Path:
        """The file with a part of an episode: one for several episodes in v3, for one episode in v2."""
        index = episode["episode_index"]
        places = {
            "episode_index": index,
            "episode_chunk": index // self.info.get("chunks_size", 1000),
            "chunk_index": episode.get(f"{part}/chunk_index"),
            "file_index": episode.get(f"{part}/file_index"),
        }
        return self._inside(template.format(**places, **names))

    def _inside(self, name: str) -> Path:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"expected a path inside the dataset, got {name!r}")
        return self.folder / name


def open_source(src: Path, image_key: str | None) -> Source:
    """Open the folder of a dataset.

    Raises:
        DataError: for another version, damaged metadata, or no such camera.
        ConfigError: if a camera has to be chosen, or ``meta/info.json`` cannot be read.
        DependencyNotInstalled: if pyarrow is missing.
    """
    info = read_json(src / "meta" / "info.json")
    version, features = str(info.get("codebase_version")), info.get("features", {})
    if not version.startswith(("v2.", "v3.")):
        raise DataError(
            f"{src}: expected a LeRobot dataset of version v2.0, v2.1 or v3.0, got {version}; convert it with LeRobot"
        )
    cameras = [name for name, feature in features.items() if feature.get("dtype") in ("image", "video")]
    camera = choose_key(cameras, image_key, str(src))
    stored = (features[camera].get("info") or {}).get("video.fps", info.get("fps"))
    if stored != info.get("fps"):
        raise DataError(
            f"{src}: expected {info.get('fps')} frames a second of {camera}, as in the tables, got {stored}; "
            "choose another camera"
        )
    try:
        episodes = (_episodes_v2 if version.startswith("v2.") else _episodes_v3)(src)
        bounds = _bounds(src) if ACTION in features else None
    except (ConfigError, OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{src}/meta: not readable ({error}); download the dataset again") from error
    return LeRobotSource(src, info, sorted(episodes, key=lambda row: int(row["episode_index"])), camera, bounds)


def download(name: str, metadata_only: bool = False) -> Path:
    """Download a dataset from the Hugging Face Hub, unless it is in its cache.

    Args:
        name: such as ``"lerobot/pusht"``.
        metadata_only: whether its folder ``meta`` is enough.

    Raises:
        DataError: if there is none of this name, or the Hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        raise DataError(f"{name}: expected a folder, or a dataset on the Hugging Face Hub such as lerobot/pusht")
    patterns = ["meta/*"] if metadata_only else ["meta/*", "data/*", "videos/*", "images/*"]
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=patterns))
    except Exception as error:  # the client raises its own errors, those of its transport, and OSError
        raise DataError(
            f"expected a folder {name!r} or a dataset on the Hugging Face Hub, got {type(error).__name__} from the "
            f"Hub: {error}. Check the id, the connection and, for a private one, `hf auth login`"
        ) from error


def _episodes_v2(src: Path) -> list[dict[str, Any]]:
    return _json_lines(src / "meta" / "episodes.jsonl")


def _episodes_v3(src: Path) -> list[dict[str, Any]]:
    """The rows without the statistics of every episode."""
    parquet, rows = require("pyarrow.parquet"), []
    for path in sorted((src / "meta" / "episodes").rglob("*.parquet")):
        names = [name for name in parquet.read_schema(path).names if not name.startswith("stats/")]
        rows += parquet.read_table(path, columns=names).to_pylist()
    return rows


def _bounds(src: Path) -> Bounds:
    """From the statistics of the dataset or, in v2.1, of its episodes."""
    if (src / "meta" / "stats.json").exists():
        all_stats = [read_json(src / "meta" / "stats.json")]
    else:
        all_stats = [line["stats"] for line in _json_lines(src / "meta" / "episodes_stats.jsonl")]
    low, high = (
        np.array([np.ravel(stats[ACTION][name]) for stats in all_stats], np.float64) for name in ("min", "max")
    )
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise DataError(f"{src}/meta: expected finite statistics of the actions, got {low.tolist()}, {high.tolist()}")
    return Bounds(low.min(axis=0), high.max(axis=0))


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _table_of_numbers(cells: list[Any], name: str) -> Values:
    """``[N, A]`` from lists, or ``[N, 1]`` from numbers."""
    if not cells:
        return np.zeros((0, 1))
    try:
        return np.array(cells, np.float64).reshape(len(cells), -1)
    except (TypeError, ValueError) as error:
        raise DataError(f"expected {name} of one length in every row, got others ({error})") from error


def _column_of_numbers(cells: list[Any], name: str) -> Values:
    """``[N]`` from numbers, or from lists of one number."""
    values = _table_of_numbers(cells, name)
    if values.shape[1] != 1:
        raise DataError(f"expected one number {name} in every row, got shape {list(values.shape)}")
    return values.reshape(-1)


def _shown(values: list[Any]) -> str:
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "") if values else "none"
