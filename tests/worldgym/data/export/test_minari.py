import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest

from worldgym.data.convert.formats import open_source
from worldgym.data.convert.writing import Target, convert
from worldgym.data.export.minari import decode, export, serialize
from worldgym.data.recordings import Recordings
from worldgym.envs.actions import ActionCodec
from worldgym.errors import ConfigError, DataError, DependencyNotInstalled

Record = Callable[..., Recordings]
BOX = {"kind": "Box", "shape": [2], "dtype": "float32", "low": [-2.0, 0.0], "high": [2.0, 1.0]}
DISCRETE = {"kind": "Discrete", "n": 3, "start": 1}


def one_hot(rng: np.random.Generator, steps: int) -> Any:
    return np.eye(3)[rng.integers(0, 3, steps)]


@pytest.mark.parametrize(("actions", "space"), [(3, None), (2, BOX), (one_hot, DISCRETE)])
def test_the_reader_finds_what_was_recorded(actions: Any, space: Any, record: Record, tmp_path: Path) -> None:
    recordings = record(actions, space=space)
    export(recordings, tmp_path / "cups-v0")
    outcome = convert(open_source("minari", tmp_path / "cups-v0"), Target(tmp_path / "back", "minari", resolution=16))
    assert outcome.left_out == {}
    found = Recordings(tmp_path / "back")
    assert found.action_space == recordings.action_space
    for episode, original in zip(found.episodes, recordings.episodes, strict=True):
        np.testing.assert_array_equal(episode.frames(), original.frames())
        np.testing.assert_allclose(episode.actions, original.actions, atol=1e-6)
        np.testing.assert_array_equal(episode.rewards, original.rewards)
        assert episode.info.terminated == original.info.terminated
        assert episode.info.task == "cups-v0"


def test_the_files(recordings: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldgym.data.export.output.BLOCK_BYTES", 2 * 16 * 16 * 3)
    export(recordings, tmp_path / "cups-v0")
    folder = tmp_path / "cups-v0" / "data"
    assert sorted(path.name for path in folder.iterdir()) == ["main_data.hdf5", "metadata.json"]
    metadata = json.loads((folder / "metadata.json").read_text())
    assert (metadata["dataset_id"], metadata["data_format"], metadata["jpeg_encoding"]) == ("cups-v0", "hdf5", False)
    assert (metadata["total_episodes"], metadata["total_steps"]) == (3, 15)
    assert {"minari_version", "dataset_size", "description"} <= set(metadata)
    assert json.loads(metadata["observation_space"])["shape"] == [16, 16, 3]
    assert json.loads(metadata["action_space"])["low"] == [-1, -1, -1]
    with h5py.File(folder / "main_data.hdf5") as file:
        assert list(file) == ["episode_0", "episode_1", "episode_2"]
        for index, (group, episode) in enumerate(zip(file.values(), recordings.episodes, strict=True)):
            expected = {"id": index, "seed": index, "total_steps": len(episode)}
            assert dict(group.attrs) == {**expected, "task": episode.info.task, "behaviour": "expert"}
            np.testing.assert_array_equal(group["observations"], episode.frames())
            np.testing.assert_array_equal(group["infos/success"], [False, *episode.successes])
            ends = group["terminations"][-1], group["truncations"][-1]
            assert ends == ((True, False) if index == 1 else (False, True))
            assert not group["truncations"][:-1].any()


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Box(-1, 1, (3,)),
        gym.spaces.Box(np.array([[-2.0], [0.5]]), np.array([[3.0], [0.5]]), dtype=np.float64),
        gym.spaces.Box(0, 5, (2,), np.uint8),
        gym.spaces.Discrete(4, start=-1),
        gym.spaces.MultiDiscrete(np.array([[2, 3], [4, 2]])),
        gym.spaces.MultiDiscrete([3, 2], start=[5, -1]),
        gym.spaces.MultiBinary(3),
        gym.spaces.MultiBinary([2, 2]),
    ],
    ids=str,
)
def test_actions_are_those_of_the_environment(space: gym.Space[Any]) -> None:
    space.seed(0)
    codec, actions = ActionCodec(space), np.array([space.sample() for _ in range(20)])
    described = json.loads(json.dumps(codec.describe()))
    decoded = decode(np.stack([codec.encode(action) for action in actions]), described)
    np.testing.assert_allclose(decoded, actions, atol=1e-6)
    assert all(space.contains(action.astype(space.dtype)) for action in decoded)
    assert serialize(described, codec.dim)["type"] == type(space).__name__


def test_unknown_spaces_are_refused() -> None:
    message = "expected Box, Discrete, MultiDiscrete, MultiBinary, got 'Tuple'"
    with pytest.raises(DataError, match=message):
        serialize({"kind": "Tuple"}, 2)
    with pytest.raises(DataError, match=message):
        decode(np.zeros((1, 2), np.float32), {"kind": "Tuple"})


def test_names_without_a_version_are_refused(recordings: Recordings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="my cups: expected a name with a version, such as my-cups-v0"):
        export(recordings, tmp_path / "my cups")


def test_a_missing_package_is_named(recordings: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DependencyNotInstalled, match=r"h5py .*pip install 'worldgym\[convert\]'"):
        export(recordings, tmp_path / "cups-v0")
    assert not (tmp_path / "cups-v0").exists()
