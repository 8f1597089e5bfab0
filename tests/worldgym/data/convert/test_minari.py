import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest

from worldgym.data.convert.formats import open_source
from worldgym.data.convert.minari_actions import encode as encode_actions
from worldgym.data.recordings import Recordings
from worldgym.envs.actions import ActionCodec
from worldgym.errors import ConfigError, DataError

BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-2.0, 0.0], "high": [2.0, 1.0]}
JPEG_ERROR = 3  # of a flat colour
DISCRETE = {"type": "Discrete", "dtype": "int64", "start": 1, "n": 3}


def write_dataset(folder: Path, space: dict[str, Any], *episodes: dict[str, Any], in_file: bool = False) -> None:
    """A dataset of Minari 0.5, or with its metadata in the main file as older ones."""
    (folder / "data").mkdir(parents=True)
    described = {"action_space": json.dumps(space), "env_spec": json.dumps({"id": "PointMaze-v3"})}
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for index, episode in enumerate(episodes):
            group = file.create_group(f"episode_{index}")
            for name, values in episode.items():
                group[name] = values
        if in_file:
            file.attrs.update(described)
    if not in_file:
        (folder / "data" / "metadata.json").write_text(json.dumps(described))


def episode_of(clip: Any, actions: Any, key: str = "observations", end: bool = False) -> dict[str, Any]:
    steps = len(clip) - 1
    ends = np.arange(steps) == (steps - 1 if end else steps)
    return {
        key: clip,
        "actions": actions,
        "rewards": np.arange(float(steps)),
        "terminations": ends,
        "truncations": ~ends,
    }


@pytest.mark.parametrize("in_file", [False, True])
def test_a_box(tmp_path: Path, in_file: bool, make_clip: Callable[..., Any], conversion: Any) -> None:
    clip = make_clip(4)
    actions = np.array([[-2, 0.5], [2, 1], [1, 0]], np.float32)
    episodes = (episode_of(clip, actions, end=True), episode_of(clip[:3], actions[:2]))
    write_dataset(tmp_path / "maze-v1", BOX, *episodes, in_file=in_file)
    assert conversion.run("minari", tmp_path).written == 2
    recordings = Recordings(tmp_path / "out")
    first, second = recordings.episodes
    conversion.check_frames(first, clip)
    np.testing.assert_allclose(first.actions, [[-1, 0], [1, 1], [0.5, -1]])
    np.testing.assert_array_equal(first.rewards, [0, 1, 2])
    assert (first.info.task, first.info.terminated, second.info.terminated) == ("PointMaze-v3", True, False)
    codec = ActionCodec(gym.spaces.Box(np.array([-2.0, 0], np.float32), np.array([2.0, 1], np.float32)))
    assert recordings.action_space == codec.describe()
    np.testing.assert_allclose(first.actions[0], codec.encode(actions[0]))


def test_discrete_actions_and_pictures_among_observations(
    tmp_path: Path, make_clip: Callable[..., Any], conversion: Any
) -> None:
    clip, actions = make_clip(4), np.array([1, 3, 2])
    episode = episode_of(clip, actions, key="observations/rgb")
    episode["observations/goal"] = np.zeros((4, 2))
    write_dataset(tmp_path / "maze", DISCRETE, episode)
    conversion.run("minari", tmp_path / "maze" / "data" / "main_data.hdf5")
    (found,) = conversion.episodes
    np.testing.assert_array_equal(found.actions, [[1, 0, 0], [0, 0, 1], [0, 1, 0]])
    assert found.info.action_space == ActionCodec(gym.spaces.Discrete(3, start=1)).describe()


@pytest.mark.parametrize("same_length", [False, True])
def test_pictures_as_jpegs(
    same_length: bool, tmp_path: Path, make_clip: Callable[..., Any], encode: Callable[..., Any], conversion: Any
) -> None:
    clip = make_clip(3)
    files = [np.frombuffer(file, np.uint8) for file in encode(clip, "JPEG")]
    longest = max(map(len, files)) + 5
    stored = np.empty(3, object)
    stored[:] = [np.pad(file, (0, index)) for index, file in enumerate(files)]
    if same_length:
        stored = np.stack([np.pad(file, (0, longest - len(file))) for file in files])
    episode = episode_of(clip, np.zeros((2, 2), np.float32))
    del episode["observations"]
    write_dataset(tmp_path / "maze", BOX, {**episode, "observations/ram": np.full((3, 128), 255, np.uint8)})
    with h5py.File(tmp_path / "maze" / "data" / "main_data.hdf5", "a") as file:
        kind = None if same_length else h5py.vlen_dtype(np.uint8)
        file["episode_0/observations"].create_dataset("rgb", data=stored, dtype=kind)
    conversion.run("minari", tmp_path / "maze")
    (found,) = conversion.episodes
    conversion.check_frames(found, clip, JPEG_ERROR)


def test_bad_members_are_named_and_left_out(tmp_path: Path, make_clip: Callable[..., Any], conversion: Any) -> None:
    clip, actions = make_clip(3), np.zeros((2, 2), np.float32)
    write_dataset(
        tmp_path / "maze",
        BOX,
        episode_of(clip, actions),
        episode_of(clip[:1], actions[:0]),
        episode_of(clip, np.zeros((2, 3), np.float32)),
        {**episode_of(clip, actions), "rewards": np.array([0, np.nan])},
        episode_of(clip[:2], actions),
        episode_of(np.zeros((3, 4), np.float32), actions),
        {"actions": actions},
        episode_of(clip[..., 0], actions),  # grayscale
    )
    outcome = conversion.run("minari", tmp_path / "maze")
    reasons = {
        "episode_1": "expected at least 2 frames, got 1",
        "episode_2": "expected actions of length 2 as their space has, got length 3",
        "episode_3": "got nan at step 1",
        "episode_4": "expected frames uint8 [3, H, W, 3], got uint8 [2, 16, 16, 3]",
        "episode_5": "expected pictures uint8",
        "episode_6": "expected episode_6/observations, found actions",
    }
    conversion.check_left_out(outcome, reasons)
    assert len(conversion.episodes) == 2


def test_action_spaces() -> None:
    actions = np.array([[0.5, -3.0]])
    unbounded = {**BOX, "low": [-np.inf, 0.0]}
    unit = {**BOX, "low": [-1.0, -1.0], "high": [1.0, 1.0]}
    for space in ({}, unbounded, unit):
        vectors, described = encode_actions(actions, space)
        np.testing.assert_array_equal(vectors, actions)
        assert described == {}
    for values, space in (([4], DISCRETE), ([0], DISCRETE), ([[1, 2]], DISCRETE), ([[1]], {"type": "Tuple"})):
        with pytest.raises(DataError, match="expected actions"):
            encode_actions(np.array(values), space)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_dataset(tmp_path / name, BOX)
    with pytest.raises(ConfigError, match="several datasets; choose one of them"):
        open_source("minari", tmp_path)
    path = tmp_path / "a" / "data" / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="not a readable HDF5 file"):
        open_source("minari", tmp_path / "a")
