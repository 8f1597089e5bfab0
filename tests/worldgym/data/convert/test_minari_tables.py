import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from worldgym.data.convert.formats import open_source
from worldgym.errors import ConfigError

JPEG_ERROR = 3  # of a flat colour
PICTURE = {"type": "Box", "dtype": "uint8", "shape": [32, 32, 3]}
GOAL = {"type": "Box", "dtype": "float32", "shape": [2]}
BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-2.0, 0.0], "high": [2.0, 1.0]}
DISCRETE = {"type": "Discrete", "dtype": "int64", "start": 1, "n": 3}
ACTIONS = np.array([[-2, 0.5], [2, 1], [1, 0]], np.float32)


def rows_of(values: Any) -> pa.Array:
    """Arrays as rows of one size, as Minari stores them."""
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def columns_of(observations: pa.Array, actions: Any, end: bool = False) -> dict[str, Any]:
    """The columns of an episode, whose last row holds the last observation alone."""
    steps = len(actions)
    padded = np.concatenate([actions, np.zeros_like(actions[:1])])
    ends = np.arange(steps + 1) == (steps - 1 if end else -1)
    return {
        "episode_id": np.zeros(steps + 1, np.int32),
        "observations": observations,
        "actions": rows_of(padded) if padded.ndim > 1 else padded,
        "rewards": np.pad(np.arange(float(steps)), (0, 1)),
        "terminations": ends,
        "truncations": np.zeros(steps + 1, np.bool_),
    }


def write_dataset(
    folder: Path, observation_space: Any, action_space: Any, *episodes: dict[str, Any], form: str = "arrow"
) -> None:
    """A dataset as Minari 0.5.4 writes it; compared with files of its own when the reader was written."""
    described = {"observation_space": observation_space, "action_space": action_space, "env_spec": {"id": "Maze-v3"}}
    for index, columns in enumerate(episodes):
        columns = {**columns, "episode_id": np.full(len(columns["episode_id"]), index, np.int32)}
        batch = pa.RecordBatch.from_pydict(columns)
        ds.write_dataset(
            batch,
            folder / "data",
            format=form,
            partitioning=["episode_id"],
            existing_data_behavior="overwrite_or_ignore",
        )
        (folder / "data" / str(index) / "metadata.json").write_text(json.dumps({"id": index}))
    texts = {name: json.dumps(value) for name, value in described.items()}
    (folder / "data" / "metadata.json").write_text(json.dumps({**texts, "data_format": form}))


@pytest.mark.parametrize("form", ["arrow", "parquet"])
@pytest.mark.parametrize("jpeg", [False, True])
def test_pictures_among_observations(
    form: str, jpeg: bool, tmp_path: Path, make_clip: Callable[..., Any], encode: Callable[..., Any], conversion: Any
) -> None:
    clip = make_clip(4)
    pictures = pa.array(encode(clip, "JPEG")) if jpeg else rows_of(clip)
    observations = pa.StructArray.from_arrays([rows_of(np.zeros((4, 2), np.float32)), pictures], ["goal", "rgb"])
    space = {"type": "Dict", "subspaces": {"goal": GOAL, "rgb": PICTURE}}
    write_dataset(tmp_path / "maze-v0", space, BOX, columns_of(observations, ACTIONS, end=True), form=form)
    assert conversion.run("minari", tmp_path).written == 1
    (episode,) = conversion.episodes
    conversion.check_frames(episode, clip, JPEG_ERROR if jpeg else 0)
    np.testing.assert_allclose(episode.actions, [[-1, 0], [1, 1], [0.5, -1]])
    np.testing.assert_array_equal(episode.rewards, [0, 1, 2])
    assert (episode.info.task, episode.info.terminated) == ("Maze-v3", True)
    assert episode.info.action_space == {"kind": "Box", **{key: BOX[key] for key in ("shape", "dtype", "low", "high")}}


def test_observations_that_are_pictures(tmp_path: Path, make_clip: Callable[..., Any], conversion: Any) -> None:
    clips = [make_clip(3, seed=index) for index in range(11)]
    episodes = [columns_of(rows_of(clip), np.array([3, 1])) for clip in clips]
    write_dataset(tmp_path / "maze", PICTURE, DISCRETE, *episodes)
    names = [member.name for member in open_source("minari", tmp_path).members()]
    assert names == [f"episode_{index}" for index in range(11)]
    conversion.run("minari", tmp_path / "maze" / "data")
    first = conversion.episodes[0]
    conversion.check_frames(first, clips[0])
    np.testing.assert_array_equal(first.actions, [[0, 0, 1], [1, 0, 0]])
    assert not first.info.terminated


def test_a_camera_is_chosen_among_several(tmp_path: Path, make_clip: Callable[..., Any], conversion: Any) -> None:
    clips = {"rgb": make_clip(4), "side": make_clip(4, seed=1)}
    observations = pa.StructArray.from_arrays([rows_of(clip) for clip in clips.values()], list(clips))
    space = {"type": "Dict", "subspaces": {"rgb": PICTURE, "side": PICTURE}}
    write_dataset(tmp_path / "maze", space, BOX, columns_of(observations, ACTIONS))
    conversion.check_cameras("minari", tmp_path / "maze", clips)


def test_bad_members_are_named_and_left_out(tmp_path: Path, make_clip: Callable[..., Any], conversion: Any) -> None:
    clip = make_clip(4)
    good = columns_of(rows_of(clip), ACTIONS)
    both = pa.StructArray.from_arrays([rows_of(np.zeros((4, 2), np.float32))] * 2, ["left", "right"])
    write_dataset(
        tmp_path / "maze",
        PICTURE,
        BOX,
        good,
        {**good, "rewards": np.array([0, np.nan, 0, 0])},
        {**good, "actions": rows_of(np.zeros((4, 3), np.float32))},
        {**good, "actions": both},
        {name: values for name, values in good.items() if name != "rewards"},
        {name: values[:1] for name, values in good.items()},
        {**good, "observations": np.arange(4)},
        good,
    )
    path = tmp_path / "maze" / "data" / "7" / "part-0.arrow"
    path.write_bytes(path.read_bytes()[:200])
    reasons = {
        "episode_1": "got nan at step 1",
        "episode_2": "not readable (ValueError: cannot reshape array",
        "episode_3": "expected numbers in a column, got struct",
        "episode_4": "expected the columns observations, actions, rewards, terminations, found no rewards",
        "episode_5": "expected at least 2 frames, got 1",
        "episode_6": "expected pictures",
        "episode_7": "not readable (Arrow",
    }
    conversion.check_left_out(conversion.run("minari", tmp_path), reasons)


def test_several_datasets(tmp_path: Path, make_clip: Callable[..., Any]) -> None:
    for name in ("a", "b"):
        write_dataset(tmp_path / name, PICTURE, BOX, columns_of(rows_of(make_clip(4)), ACTIONS))
    with pytest.raises(ConfigError, match=r"several datasets; choose one of them: .*/a/data, .*/b/data"):
        open_source("minari", tmp_path)
