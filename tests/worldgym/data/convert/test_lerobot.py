import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worldgym.data.convert.formats import open_source
from worldgym.data.convert.lerobot import download
from worldgym.errors import ConfigError, DataError
from worldgym.reports.video import write_mp4

FPS = 10
LENGTHS = (5, 3, 7)
TASKS = ("lift", "push the cup", "lift")
FRONT, WRIST = "observation.images.front", "observation.images.wrist"
CODEC_ERROR = 4
LOW, HIGH = np.array([-2.0, 0.0, 1.0]), np.array([2.0, 10.0, 1.0])


def rows_of(episode: int) -> dict[str, Any]:
    """The columns of an episode; actions span the whole range in the first one."""
    count, rng = LENGTHS[episode], np.random.default_rng(episode)
    actions = rng.uniform(LOW, HIGH, (count, 3))
    if episode == 0:
        actions[:2] = LOW, HIGH
    return {
        "action": actions.astype(np.float32).tolist(),
        "next.reward": [float(step) for step in range(count)],
        "next.success": [False] * (count - 2) + [True, True],
        "timestamp": [step / FPS for step in range(count)],
        "frame_index": list(range(count)),
        "episode_index": [episode] * count,
        "index": [sum(LENGTHS[:episode]) + step for step in range(count)],
        "task_index": [0] * count,
    }


def write_table(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    types = {"action": pa.list_(pa.float32()), "timestamp": pa.float32()}
    pq.write_table(pa.table({name: pa.array(cells, types.get(name)) for name, cells in columns.items()}), path)


def write_json(path: Path, *values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, values)))


def info(version: str, **paths: str) -> dict[str, Any]:
    cameras = {FRONT: {"dtype": "video", "shape": [32, 32, 3]}, WRIST: {"dtype": "image", "shape": [16, 16, 3]}}
    features = {**cameras, "action": {"dtype": "float32", "shape": [3]}}
    return {"codebase_version": version, "fps": FPS, "chunks_size": 2, "features": features, **paths}


@pytest.fixture
def dataset_v2(tmp_path: Path, make_clip: Callable[..., Any], encode: Callable[..., Any]) -> Path:
    """A dataset v2.1 with one table and one video for each episode, two episodes in a chunk."""
    folder = tmp_path / "robot-v2"
    paths = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    write_json(folder / "meta" / "info.json", info("v2.1", **paths))
    episodes, stats = [], []
    for index, (length, task) in enumerate(zip(LENGTHS, TASKS, strict=True)):
        rows, chunk = rows_of(index), f"chunk-{index // 2:03d}"
        actions = np.array(rows["action"])
        wrist = [{"bytes": file, "path": None} for file in encode(make_clip(length, 100 + index, 16))]
        write_table(folder / "data" / chunk / f"episode_{index:06d}.parquet", {**rows, WRIST: wrist})
        write_mp4(folder / "videos" / chunk / FRONT / f"episode_{index:06d}.mp4", make_clip(length, index), FPS)
        episodes.append({"episode_index": index, "tasks": [task], "length": length})
        limits = {"min": actions.min(axis=0).tolist(), "max": actions.max(axis=0).tolist()}
        stats.append({"episode_index": index, "stats": {"action": limits}})
    write_json(folder / "meta" / "episodes.jsonl", *episodes)
    write_json(folder / "meta" / "episodes_stats.jsonl", *stats)
    return folder


@pytest.fixture
def dataset_v3(tmp_path: Path, make_clip: Callable[..., Any], encode: Callable[..., Any]) -> Path:
    """A dataset v3.0 with all episodes in one table and one video."""
    folder = tmp_path / "robot-v3"
    paths = {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    write_json(folder / "meta" / "info.json", info("v3.0", **paths))
    write_json(folder / "meta" / "stats.json", {"action": {"min": LOW.tolist(), "max": HIGH.tolist()}})
    all_rows, clips = [rows_of(index) for index in range(3)], [make_clip(length, i) for i, length in enumerate(LENGTHS)]
    starts = np.cumsum([0, *LENGTHS])
    wrists = [picture for i, length in enumerate(LENGTHS) for picture in make_clip(length, 100 + i, 16)]
    table = {name: [cell for rows in all_rows for cell in rows[name]] for name in all_rows[0]}
    table[WRIST] = [{"bytes": file, "path": None} for file in encode(wrists)]
    write_table(folder / "data" / "chunk-000" / "file-000.parquet", table)
    write_mp4(folder / "videos" / FRONT / "chunk-000" / "file-000.mp4", np.concatenate(clips), FPS)
    write_table(
        folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet",
        {
            "episode_index": [2, 0, 1],  # in any order
            "tasks": [[TASKS[i]] for i in (2, 0, 1)],
            "length": [LENGTHS[i] for i in (2, 0, 1)],
            "data/chunk_index": [0] * 3,
            "data/file_index": [0] * 3,
            f"videos/{FRONT}/chunk_index": [0] * 3,
            f"videos/{FRONT}/file_index": [0] * 3,
            f"videos/{FRONT}/from_timestamp": [float(starts[i] / FPS) for i in (2, 0, 1)],
            f"videos/{FRONT}/to_timestamp": [float(starts[i + 1] / FPS) for i in (2, 0, 1)],
            "stats/action/min": [LOW.tolist()] * 3,
        },
    )
    return folder


@pytest.fixture(params=["v2", "v3"])
def dataset(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(f"dataset_{request.param}")
    return folder


@pytest.mark.parametrize("camera", [FRONT, WRIST])
def test_episodes(dataset: Path, camera: str, make_clip: Callable[..., Any], conversion: Any) -> None:
    assert conversion.run("lerobot", dataset, camera).written == 3
    for index, episode in enumerate(conversion.episodes):
        rows, steps = rows_of(index), LENGTHS[index] - 1
        assert episode.path.stem == f"episode_{index:06d}"
        assert (episode.info.task, episode.info.look) == (TASKS[index], camera)
        clip = make_clip(LENGTHS[index], index) if camera == FRONT else make_clip(LENGTHS[index], 100 + index, 16)
        conversion.check_frames(episode, clip, CODEC_ERROR if camera == FRONT else 0)
        scaled = (np.array(rows["action"])[:steps] - LOW) / np.array([4, 10, 1]) * 2 - 1
        scaled[:, 2] = 0  # it is constant
        np.testing.assert_allclose(episode.actions, scaled, atol=1e-6)
        np.testing.assert_array_equal(episode.rewards, np.arange(steps))
        np.testing.assert_array_equal(episode.successes, [*[False] * (steps - 1), True])


def test_a_camera_has_to_be_chosen(dataset: Path) -> None:
    with pytest.raises(ConfigError, match=f"choose one with --image-key: {FRONT}, {WRIST}"):
        open_source("lerobot", dataset)
    with pytest.raises(DataError, match=f"did you mean '{WRIST}'"):
        open_source("lerobot", dataset, "observation.images.wrst")


def test_bad_members_are_named_and_left_out(dataset_v2: Path, conversion: Any) -> None:
    video = dataset_v2 / "videos" / "chunk-000" / FRONT / "episode_000001.mp4"
    video.write_bytes(video.read_bytes()[:600])
    rows = rows_of(2)
    rows["next.reward"][3] = np.nan
    write_table(dataset_v2 / "data" / "chunk-001" / "episode_000002.parquet", rows)
    outcome = conversion.run("lerobot", dataset_v2, FRONT)
    assert outcome.written == 1
    assert "ffmpeg cannot decode it" in outcome.left_out["episode_000001"]
    assert "got nan at step 3" in outcome.left_out["episode_000002"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"frame_index": [0, 1, 3, 4, 5, 6, 7]}, "expected rows 0 to 6 in"),
        ({"timestamp": [0.0, 0.1, 0.1, 0.3, 0.4, 0.5, 0.6]}, "expected timestamps that rise in"),
        ({"action": [[0.0] * 3] * 6 + [[0.0] * 2]}, "expected action of one length in every row"),
        ({"episode_index": [2] * 6 + [5]}, "expected rows 0 to 6 in"),
        ({"episode_index": [5] * 7}, "got none"),
    ],
)
def test_odd_tables(changes: dict[str, Any], reason: str, dataset_v2: Path, conversion: Any) -> None:
    write_table(dataset_v2 / "data" / "chunk-001" / "episode_000002.parquet", {**rows_of(2), **changes})
    assert reason in conversion.run("lerobot", dataset_v2, FRONT).left_out["episode_000002"]


def test_an_empty_episode(dataset_v2: Path, conversion: Any) -> None:
    path = dataset_v2 / "data" / "chunk-000" / "episode_000001.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    lines = (dataset_v2 / "meta" / "episodes.jsonl").read_text().splitlines()
    write_json(dataset_v2 / "meta" / "episodes.jsonl", *({**json.loads(line), "length": None} for line in lines))
    assert (
        "expected at least 2 frames, got 0" in conversion.run("lerobot", dataset_v2, WRIST).left_out["episode_000001"]
    )


def test_videos_of_another_length(
    dataset_v2: Path, make_clip: Callable[..., Any], conversion: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = dataset_v2 / "videos"
    write_mp4(folder / "chunk-000" / FRONT / "episode_000001.mp4", make_clip(2))
    write_mp4(folder / "chunk-001" / FRONT / "episode_000002.mp4", make_clip(14))
    (dataset_v2 / "data" / "chunk-000" / "episode_000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="none of 3; the first reason: not readable"):
        conversion.run("lerobot", dataset_v2, FRONT)
    shown = capsys.readouterr().err
    assert "left out episode_000001: expected frames uint8 [3, H, W, 3], got uint8 [2, 16, 16, 3]" in shown
    assert "left out episode_000002: expected frames uint8 [7, H, W, 3], got uint8 [8, 16, 16, 3]" in shown


def test_other_datasets_are_refused(dataset_v3: Path) -> None:
    path = dataset_v3 / "meta" / "info.json"
    good = json.loads(path.read_text())
    write_json(path, {**good, "codebase_version": "v1.6"})
    with pytest.raises(DataError, match=r"version v2\.0, v2\.1 or v3\.0, got v1\.6"):
        open_source("lerobot", dataset_v3, FRONT)
    front = {**good["features"][FRONT], "info": {"video.fps": 30}}
    write_json(path, {**good, "features": {**good["features"], FRONT: front}})
    with pytest.raises(DataError, match="expected 10 frames a second"):
        open_source("lerobot", dataset_v3, FRONT)
    write_json(path, good)
    write_json(dataset_v3 / "meta" / "stats.json", {})
    with pytest.raises(DataError, match="meta: not readable"):
        open_source("lerobot", dataset_v3, FRONT)
    write_json(path, {**good, "features": {"action": {}}})
    with pytest.raises(DataError, match="expected pictures, found none"):
        open_source("lerobot", dataset_v3)


def test_paths_stay_inside_the_dataset(dataset_v3: Path, conversion: Any) -> None:
    path = dataset_v3 / "meta" / "info.json"
    write_json(path, {**json.loads(path.read_text()), "data_path": "../{episode_index}"})
    with pytest.raises(DataError, match=r"expected a path inside the dataset, got '\.\./0'"):
        conversion.run("lerobot", dataset_v3, FRONT)


def test_datasets_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="expected a folder, or a dataset on the Hugging Face Hub"):
        download("no-such-folder")
    with pytest.raises(DataError, match="from the Hub: "):
        download("someone/nothing")
