"""Recordings as a LeRobot dataset, v3.0: tables as Parquet, frames as MP4, which hold many episodes each.

A row holds what was seen, ``frames[t]``, and the action that was then taken, ``actions[t]``; ``next.reward`` and
``next.success`` came of it. So an episode of T steps has T rows, and its last observation, on which nothing was done,
is left out. Actions are the recorded vectors.

``next.done`` is true in an episode's last row, and ``next.truncated`` with it, unless the environment ended the
episode. Frame t of an episode is shown t / fps seconds after the episode's ``from_timestamp`` in the video.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from worldgym.data.convert.source import require
from worldgym.data.episode import EpisodeFile
from worldgym.data.export.output import check_steps, frame_blocks, new_folder
from worldgym.data.export.statistics import Statistics, count_levels, of_numbers, of_pixels
from worldgym.data.export.video import CODEC, WriteFrames, open_video, pixel_format
from worldgym.data.recordings import Recordings
from worldgym.storage.files import to_json

VERSION = "v3.0"
CAMERA = "observation.images.main"
ACTION = "action"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{FILE}.mp4"
EPISODES_PATH = f"meta/episodes/{FILE}.parquet"
CHUNK_FILES = 1000
MEGABYTE = 2**20
TABLE_BYTES = 100 * MEGABYTE  # a table that has so many takes no more rows
VIDEO_BYTES = 200 * MEGABYTE  # a video has so many at most, as it has no more frames than fit into them uncompressed
EPISODE_ROWS = 500  # descriptions of episodes that are in memory at once


class Row(NamedTuple):
    """Where the rows of an episode are.

    Attributes:
        episode: its index.
        first: index of its first row in the dataset.
        task: index of its task.
    """

    episode: int
    first: int
    task: int


def export(recordings: Recordings, out: Path, fps: int = 10) -> None:
    """Write recordings as a LeRobot dataset.

    Args:
        recordings: the episodes.
        out: folder of the dataset: new, or empty.
        fps: frames in a second that the dataset declares; recordings have no time of their own.

    Raises:
        ConfigError: if there is something in the folder.
        DataError: if an episode has no steps, or cannot be read any more.
        StorageError: if the dataset cannot be written.
        DependencyNotInstalled: if pyarrow is missing.
    """
    require("pyarrow.parquet")
    check_steps(recordings)
    with new_folder(out) as folder:
        levels = _write_episodes(recordings, folder, fps)
        _write_tasks(folder / "meta" / "tasks.parquet", recordings.tasks)
        for name, value in (("stats", _statistics(recordings, fps, levels)), ("info", _info(recordings, fps))):
            (folder / "meta" / f"{name}.json").write_text(to_json(value, indent=4) + "\n", encoding="utf-8")


def _write_episodes(recordings: Recordings, folder: Path, fps: int) -> NDArray[np.int64]:
    """Write tables and videos of all episodes; returns how often every level of a pixel occurs in them."""
    levels = np.zeros((3, 256), np.int64)
    with ExitStack() as stack:
        data = stack.enter_context(closing(_Tables(folder, DATA_PATH)))
        descriptions = stack.enter_context(closing(_Descriptions(_Tables(folder, EPISODES_PATH))))
        videos = stack.enter_context(_Videos(folder, recordings, fps))
        for row, episode in zip(_rows(recordings), tqdm(recordings.episodes, "export", unit="episode"), strict=True):
            columns, place = _columns(row, episode, fps), data.place
            data.write(_table(columns))
            video, pixels = videos.write(episode)
            levels += pixels
            statistics = {name: of_numbers(values) for name, values in columns.items()}
            statistics[CAMERA] = of_pixels(pixels, len(episode))
            description = {
                "episode_index": row.episode,
                "tasks": [episode.info.task],
                "length": len(episode),
                **_prefixed("data", place),
                "dataset_from_index": row.first,
                "dataset_to_index": row.first + len(episode),
                **_prefixed(f"videos/{CAMERA}", video),
            }
            for name, found in statistics.items():
                description.update(_prefixed(f"stats/{name}", found))
            descriptions.add(description)
    return levels


def _rows(recordings: Recordings) -> Iterator[Row]:
    tasks, first = {task: index for index, task in enumerate(recordings.tasks)}, 0
    for index, episode in enumerate(recordings.episodes):
        yield Row(index, first, tasks[episode.info.task])
        first += len(episode)


def _columns(row: Row, episode: EpisodeFile, fps: int) -> dict[str, NDArray[Any]]:
    """The columns of an episode, ``[T]`` or ``[T, A]``."""
    step = np.arange(len(episode), dtype=np.int64)
    last = step == len(episode) - 1
    return {
        **({ACTION: episode.actions} if episode.actions.shape[1] else {}),
        "next.reward": episode.rewards,
        "next.done": last,
        "next.truncated": last & ~episode.terminations,
        "next.success": episode.successes,
        "timestamp": (step / fps).astype(np.float32),
        "frame_index": step,
        "episode_index": np.full_like(step, row.episode),
        "index": row.first + step,
        "task_index": np.full_like(step, row.task),
    }


def _table(columns: dict[str, NDArray[Any]]) -> Any:
    """A table; cells are numbers, or lists of a fixed length if they have more than one."""
    arrow = require("pyarrow")
    return arrow.table(
        {
            name: arrow.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1])
            if values.ndim == 2 and values.shape[1] > 1
            else arrow.array(values.reshape(-1))
            for name, values in columns.items()
        }
    )


def _statistics(recordings: Recordings, fps: int, levels: NDArray[np.int64]) -> dict[str, Statistics]:
    """Of the whole dataset. Only one feature of all rows is in memory at a time."""
    statistics, rows, total = {}, list(_rows(recordings)), sum(map(len, recordings.episodes))
    for name in _columns(rows[0], recordings.episodes[0], fps):
        parts = (_columns(row, episode, fps)[name] for row, episode in zip(rows, recordings.episodes, strict=True))
        statistics[name] = of_numbers(np.concatenate(list(parts)))
    return {**statistics, CAMERA: of_pixels(levels, total)}


def _info(recordings: Recordings, fps: int) -> dict[str, Any]:
    environments = {episode.info.environment for episode in recordings.episodes}
    return {
        "codebase_version": VERSION,
        "robot_type": environments.pop() if len(environments) == 1 else None,
        "fps": fps,
        "features": _features(recordings, fps),
        "total_episodes": len(recordings.episodes),
        "total_frames": sum(map(len, recordings.episodes)),
        "total_tasks": len(recordings.tasks),
        "chunks_size": CHUNK_FILES,
        "data_files_size_in_mb": TABLE_BYTES // MEGABYTE,
        "video_files_size_in_mb": VIDEO_BYTES // MEGABYTE,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "splits": {"train": f"0:{len(recordings.episodes)}"},
    }


def _features(recordings: Recordings, fps: int) -> dict[str, dict[str, Any]]:
    height, width, channels = recordings.frame_shape
    video = {
        "video.height": height,
        "video.width": width,
        "video.codec": CODEC,
        "video.pix_fmt": pixel_format(height, width),
        "video.fps": fps,
        "video.channels": channels,
        "is_depth_map": False,
        "has_audio": False,
    }
    shape, names = list(recordings.frame_shape), ["height", "width", "channels"]
    features: dict[str, dict[str, Any]] = {CAMERA: {"dtype": "video", "shape": shape, "names": names, "info": video}}
    for name, values in _columns(Row(0, 0, 0), recordings.episodes[0], fps).items():
        features[name] = {"dtype": str(values.dtype), "shape": [values[0].size], "names": None}
    if ACTION in features:
        features[ACTION]["names"] = _action_names(recordings)
    return features


def _action_names(recordings: Recordings) -> list[str]:
    """Names of an action's parts, which say what the vectors of a discrete space mean."""
    space, count = recordings.action_space, recordings.action_dim
    if space.get("kind") == "Discrete":
        return [f"is_{int(space.get('start', 0)) + index}" for index in range(count)]
    return [f"action_{index}" for index in range(count)]


def _write_tasks(path: Path, tasks: tuple[str, ...]) -> None:
    """Write the table of tasks. LeRobot reads it with pandas and looks tasks up by the table's index, ``task``."""
    arrow = require("pyarrow")
    kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [{"name": None, "field_name": None, **_pandas_type("unicode", "object")}],
        "columns": [{"name": name, "field_name": name, **_pandas_type(*kind)} for name, kind in kinds.items()],
        "pandas_version": "2.2.0",
    }
    columns = {"task_index": arrow.array(range(len(tasks)), arrow.int64()), "task": arrow.array(tasks, arrow.string())}
    table = arrow.table(columns).replace_schema_metadata({"pandas": json.dumps(pandas)})
    require("pyarrow.parquet").write_table(table, path)


def _pandas_type(kind: str, numpy_kind: str) -> dict[str, Any]:
    return {"pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}


def _place(number: int) -> dict[str, int]:
    """The chunk and the place in it of a numbered file."""
    return dict(zip(("chunk_index", "file_index"), divmod(number, CHUNK_FILES), strict=True))


def _prefixed(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


class _Tables:
    """Numbered Parquet files. Rows that are written at once stay together."""

    def __init__(self, folder: Path, template: str) -> None:
        self._folder, self._template = folder, template
        self._number = 0
        self._writer: Any = None

    @property
    def place(self) -> dict[str, int]:
        """Where the next rows will be."""
        return _place(self._number)

    def write(self, table: Any) -> None:
        path = self._folder / self._template.format(**self.place)
        if self._writer is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = require("pyarrow.parquet").ParquetWriter(path, table.schema)
        self._writer.write_table(table)
        if path.stat().st_size >= TABLE_BYTES:
            self.close()
            self._number += 1

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _Descriptions:
    """Descriptions of episodes, of which each says in which file it is. They are written many at once."""

    def __init__(self, tables: _Tables) -> None:
        self._tables = tables
        self._waiting: list[dict[str, Any]] = []

    def add(self, description: dict[str, Any]) -> None:
        self._waiting.append(description)
        if len(self._waiting) == EPISODE_ROWS:
            self._write()

    def close(self) -> None:
        if self._waiting:
            self._write()
        self._tables.close()

    def _write(self) -> None:
        place = _prefixed("meta/episodes", self._tables.place)
        self._tables.write(require("pyarrow").Table.from_pylist([{**row, **place} for row in self._waiting]))
        self._waiting.clear()


class _Videos(ExitStack):
    """Numbered videos. An episode is in one of them."""

    def __init__(self, folder: Path, recordings: Recordings, fps: int) -> None:
        super().__init__()
        height, width, channels = recordings.frame_shape
        half = pixel_format(height, width) == "yuv420p"
        self._most_frames = VIDEO_BYTES // (height * width * channels // (2 if half else 1))
        self._folder, self._size, self._fps = folder, (height, width), fps
        self._number, self._frames = -1, 0
        self._append: WriteFrames | None = None

    def write(self, episode: EpisodeFile) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """Append an episode; returns its place, and how often every level of a pixel occurs in it."""
        steps, levels = len(episode), np.zeros((3, 256), np.int64)
        if self._append is None or self._frames + steps > self._most_frames:
            self._append = self._next()
        for frames in frame_blocks(episode, steps):
            self._append(frames)
            levels += count_levels(frames)
        times = {"from_timestamp": self._frames / self._fps, "to_timestamp": (self._frames + steps) / self._fps}
        self._frames += steps
        return {**_place(self._number), **times}, levels

    def _next(self) -> WriteFrames:
        self.close()  # ends the video before, and raises if that failed
        self._number, self._frames = self._number + 1, 0
        path = self._folder / VIDEO_PATH.format(video_key=CAMERA, **_place(self._number))
        path.parent.mkdir(parents=True, exist_ok=True)
        return self.enter_context(open_video(path, *self._size, self._fps))
