import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from worldgym.data.convert.formats import open_source
from worldgym.data.convert.video import video_frames
from worldgym.data.convert.writing import Target, convert
from worldgym.data.export.lerobot import CAMERA, export
from worldgym.data.recordings import Recordings
from worldgym.errors import DataError, DependencyNotInstalled

Record = Callable[..., Recordings]
CODEC_ERROR = 4  # of a flat colour
FPS = 30
FIRST_FILE = "chunk-000/file-000"


def read_back(dataset: Path, out: Path) -> Recordings:
    outcome = convert(open_source("lerobot", dataset), Target(out, "lerobot:dataset", resolution=16))
    assert outcome.left_out == {}
    return Recordings(out)


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def read_rows(dataset: Path, folder: str) -> list[dict[str, Any]]:
    return [row for path in sorted((dataset / folder).rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_the_reader_finds_what_was_recorded(recordings: Recordings, tmp_path: Path) -> None:
    export(recordings, tmp_path / "dataset", FPS)
    limits = read_json(tmp_path / "dataset" / "meta" / "stats.json")["action"]
    low, high = np.array(limits["min"]), np.array(limits["max"])
    found = read_back(tmp_path / "dataset", tmp_path / "back")
    for episode, original in zip(found.episodes, recordings.episodes, strict=True):
        steps = len(original) - 1  # the reader has no result of the last action
        assert len(episode) == steps
        assert episode.info.task == original.info.task
        assert np.abs(episode.frames().astype(int) - original.frames(0, steps + 1)).max() <= CODEC_ERROR
        np.testing.assert_allclose(episode.actions, (original.actions[:steps] - low) / (high - low) * 2 - 1, atol=1e-6)
        np.testing.assert_array_equal(episode.rewards, original.rewards[:steps])
        np.testing.assert_array_equal(episode.successes, original.successes[:steps])


def test_rows(recordings: Recordings, tmp_path: Path) -> None:
    export(recordings, tmp_path / "dataset", FPS)
    rows, first = read_rows(tmp_path / "dataset", "data"), 0
    for index, episode in enumerate(recordings.episodes):
        steps = len(episode)
        part, first = rows[first : first + steps], first + steps
        columns = {name: [row[name] for row in part] for name in part[0]}
        np.testing.assert_array_equal(columns["action"], episode.actions)
        np.testing.assert_array_equal(columns["next.reward"], episode.rewards)
        np.testing.assert_array_equal(columns["next.success"], episode.successes)
        assert columns["next.done"] == [False] * (steps - 1) + [True]
        assert columns["next.truncated"] == [False] * (steps - 1) + [index != 1]
        np.testing.assert_allclose(columns["timestamp"], np.arange(steps) / FPS, atol=1e-6)
        assert columns["frame_index"] == list(range(steps))
        assert columns["episode_index"] == [index] * steps
        assert columns["index"] == list(range(first - steps, first))
        assert columns["task_index"] == [recordings.tasks.index(episode.info.task)] * steps
    assert len(rows) == first


def test_metadata(recordings: Recordings, tmp_path: Path) -> None:
    export(recordings, tmp_path / "dataset", FPS)
    info = read_json(tmp_path / "dataset" / "meta" / "info.json")
    assert (info["codebase_version"], info["fps"], info["robot_type"]) == ("v3.0", FPS, "Simulator-Toy-v0")
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 15, 2)
    assert info["splits"] == {"train": "0:3"}
    assert {"chunks_size", "data_files_size_in_mb", "video_files_size_in_mb"} <= set(info)
    assert info["features"][CAMERA]["dtype"] == "video"
    assert info["features"][CAMERA]["shape"] == [16, 16, 3]
    assert info["features"]["action"] == {
        "dtype": "float32",
        "shape": [3],
        "names": ["action_0", "action_1", "action_2"],
    }
    assert info["features"]["next.done"] == {"dtype": "bool", "shape": [1], "names": None}
    places = {"chunk_index": 0, "file_index": 0}
    for template in (info["data_path"], info["video_path"]):
        assert (tmp_path / "dataset" / template.format(video_key=CAMERA, **places)).is_file()
    names = pq.read_schema(tmp_path / "dataset" / "data" / f"{FIRST_FILE}.parquet").names
    assert set(names) == set(info["features"]) - {CAMERA}


def test_tasks_are_indexed_by_their_names(recordings: Recordings, tmp_path: Path) -> None:
    export(recordings, tmp_path / "dataset")
    table = pq.read_table(tmp_path / "dataset" / "meta" / "tasks.parquet")
    assert table.to_pydict() == {"task_index": [0, 1], "task": ["lift", "push the cup"]}
    assert table.schema.pandas_metadata["index_columns"] == ["task"]


def test_descriptions_of_episodes(recordings: Recordings, tmp_path: Path) -> None:
    export(recordings, tmp_path / "dataset", FPS)
    rows = read_rows(tmp_path / "dataset", "meta/episodes")
    assert [row["tasks"] for row in rows] == [["lift"], ["push the cup"], ["lift"]]
    assert [row["length"] for row in rows] == [5, 3, 7]
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in rows] == [(0, 5), (5, 8), (8, 15)]
    starts = [row[f"videos/{CAMERA}/from_timestamp"] * FPS for row in rows]
    ends = [row[f"videos/{CAMERA}/to_timestamp"] * FPS for row in rows]
    np.testing.assert_allclose([starts, ends], [[0, 5, 8], [5, 8, 15]])
    for part in ("data", f"videos/{CAMERA}", "meta/episodes"):
        assert [(row[f"{part}/chunk_index"], row[f"{part}/file_index"]) for row in rows] == [(0, 0)] * 3
    np.testing.assert_allclose(rows[2]["stats/action/max"], recordings.episodes[2].actions.max(axis=0))
    assert rows[2][f"stats/{CAMERA}/count"] == [7]


def test_statistics(recordings: Recordings, tmp_path: Path) -> None:
    export(recordings, tmp_path / "dataset")
    stats = read_json(tmp_path / "dataset" / "meta" / "stats.json")
    actions = np.concatenate([episode.actions for episode in recordings.episodes])
    frames = np.concatenate([episode.frames(0, len(episode)) for episode in recordings.episodes]) / 255
    names = {"min": np.min, "max": np.max, "mean": np.mean, "std": np.std}
    for name, function in names.items():
        np.testing.assert_allclose(stats["action"][name], function(actions, axis=0), rtol=1e-5)
        found = np.array(stats[CAMERA][name])
        assert found.shape == (3, 1, 1)
        np.testing.assert_allclose(found.ravel(), function(frames, axis=(0, 1, 2)))
    assert stats["action"]["count"] == stats[CAMERA]["count"] == [15]
    np.testing.assert_allclose(stats["next.success"]["mean"], [3 / 15])
    info = read_json(tmp_path / "dataset" / "meta" / "info.json")
    assert set(stats) == set(info["features"])


def test_files_of_bounded_size(recordings: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldgym.data.export.lerobot.TABLE_BYTES", 1)
    monkeypatch.setattr("worldgym.data.export.lerobot.CHUNK_FILES", 2)
    monkeypatch.setattr("worldgym.data.export.lerobot.VIDEO_BYTES", 9 * 16 * 16 * 3 // 2)  # 9 frames
    monkeypatch.setattr("worldgym.data.export.lerobot.EPISODE_ROWS", 2)
    monkeypatch.setattr("worldgym.data.export.output.BLOCK_BYTES", 2 * 16 * 16 * 3)
    export(recordings, tmp_path / "dataset", FPS)
    rows = read_rows(tmp_path / "dataset", "meta/episodes")
    places = {
        part: [(row[f"{part}/chunk_index"], row[f"{part}/file_index"]) for row in rows]
        for part in ("data", f"videos/{CAMERA}", "meta/episodes")
    }
    assert places["data"] == [(0, 0), (0, 1), (1, 0)]
    assert places[f"videos/{CAMERA}"] == [(0, 0), (0, 0), (0, 1)]
    assert places["meta/episodes"] == [(0, 0), (0, 0), (0, 1)]
    assert rows[2][f"videos/{CAMERA}/from_timestamp"] == 0
    videos = sorted((tmp_path / "dataset" / "videos").rglob("*.mp4"))
    assert [sum(1 for _ in video_frames(path)) for path in videos] == [8, 7]
    found = read_back(tmp_path / "dataset", tmp_path / "back")
    for episode, original in zip(found.episodes, recordings.episodes, strict=True):
        assert np.abs(episode.frames().astype(int) - original.frames()[: len(original)]).max() <= CODEC_ERROR


@pytest.mark.parametrize("count", [0, 1])
def test_short_actions_and_odd_sizes(count: int, record: Record, tmp_path: Path) -> None:
    recordings = record(count, (17, 33))
    export(recordings, tmp_path / "dataset")
    info = read_json(tmp_path / "dataset" / "meta" / "info.json")
    assert info["features"][CAMERA]["info"]["video.pix_fmt"] == "yuv444p"
    assert ("action" in info["features"]) == (count == 1)
    (first,) = video_frames(tmp_path / "dataset" / "videos" / CAMERA / f"{FIRST_FILE}.mp4", count=1)
    assert np.abs(first.astype(int) - recordings.episodes[0].frames(0, 1)[0]).max() <= CODEC_ERROR
    rows = read_rows(tmp_path / "dataset", "data")
    if count:
        assert rows[0]["action"] == recordings.episodes[0].actions[0, 0]  # a number, not a list
    assert read_back(tmp_path / "dataset", tmp_path / "back").action_dim == count


def test_names_of_discrete_actions(record: Record, tmp_path: Path) -> None:
    space = {"kind": "Discrete", "n": 3, "start": 1}
    export(record(lambda rng, steps: np.eye(3)[rng.integers(0, 3, steps)], space=space), tmp_path / "dataset")
    info = read_json(tmp_path / "dataset" / "meta" / "info.json")
    assert info["features"]["action"]["names"] == ["is_1", "is_2", "is_3"]


def test_a_missing_package_is_named(recordings: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet")
    with pytest.raises(DependencyNotInstalled, match=r"pyarrow .*pip install 'worldgym\[convert\]'"):
        export(recordings, tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


def test_episodes_without_steps_are_named(record: Record, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1\.safetensors: expected an episode of at least one step, got none"):
        export(record(lengths=(5, 0)), tmp_path / "dataset")


def test_episodes_that_vanish_leave_nothing(recordings: Recordings, tmp_path: Path) -> None:
    recordings.episodes[1].path.unlink()
    with pytest.raises(DataError, match=r"1\.safetensors"):
        export(recordings, tmp_path / "out" / "dataset")
    assert list((tmp_path / "out").iterdir()) == []
