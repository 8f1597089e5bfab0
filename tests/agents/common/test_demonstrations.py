"""Demonstrations from recordings and from files of the reference implementation."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from worldgym.agents.common.demonstrations import load_demonstrations
from worldgym.agents.common.replay import ReplayBuffer
from worldgym.data.episode import Episode
from worldgym.errors import DataError

MakeEpisode = Callable[..., Episode]
STEPS = 100
SIZES: dict[str, Any] = {"frame_shape": (64, 64, 3), "action_dim": 4}


def stacked(frames: NDArray[np.uint8], size: int = 3) -> NDArray[np.uint8]:
    """Frames ``[T + 1, H, W, 3]`` as the reference keeps them, uint8 ``[T + 1, 3 size, H, W]``."""
    newest = np.arange(len(frames))[:, None]
    stacks = frames[np.maximum(newest + np.arange(1 - size, 1), 0)].transpose(0, 1, 4, 2, 3)
    return stacks.reshape(len(frames), -1, *frames.shape[1:3])


def reference_arrays(
    frames: NDArray[np.uint8], actions: NDArray[Any], rewards: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """The arrays of a reference file: its first action and reward belong to no step."""
    return {
        "observation": stacked(frames),
        "action": np.vstack([np.zeros_like(actions[:1]), actions]),
        "reward": np.append(np.float32(0), rewards)[:, None],
        "discount": np.ones((len(frames), 1), np.float32),
    }


def write(path: Path, values: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **values)
    return path


@pytest.fixture
def values() -> dict[str, NDArray[Any]]:
    """A reference demonstration of 100 steps whose actions leave [-1, 1]."""
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(STEPS + 1, 64, 64, 3), dtype=np.uint8)
    actions = rng.normal(0, 1.5, (STEPS, 4)).astype(np.float32)
    return reference_arrays(frames, actions, rng.uniform(0, 30, STEPS).astype(np.float32))


def test_reference_file_is_read(values: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    write(tmp_path / "plate-slide" / "20240513T151859_0_100.npz", values)
    assert values["observation"].shape == (101, 9, 64, 64)
    (episode,) = load_demonstrations(tmp_path, **SIZES, task="plate-slide")
    assert (len(episode), episode.info.task, episode.actions.dtype) == (STEPS, "plate-slide", np.float32)
    for index in (0, 1, 50, STEPS):
        newest = values["observation"][index, -3:]
        np.testing.assert_array_equal(episode.frames[index], newest.transpose(1, 2, 0))
    np.testing.assert_array_equal(episode.actions, values["action"][1:].clip(-1, 1))
    np.testing.assert_array_equal(episode.rewards, values["reward"][1:, 0])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), steps=st.integers(1, 5), size=st.integers(1, 4))
def test_reference_frames_are_unstacked(data: st.DataObject, steps: int, size: int, tmp_path: Path) -> None:
    frames = data.draw(arrays.arrays(np.uint8, (steps + 1, 2, 3, 3)))
    actions = data.draw(arrays.arrays(np.float32, (steps, 2), elements=st.floats(-3, 3, width=32)))
    rewards = data.draw(arrays.arrays(np.float32, steps, elements=st.floats(0, 30, width=32)))
    found = reference_arrays(frames, actions, rewards) | {"observation": stacked(frames, size)}
    path = write(tmp_path / "hammer" / "one.npz", found)
    (episode,) = load_demonstrations(path, frame_shape=(2, 3, 3), action_dim=2, task="hammer")
    np.testing.assert_array_equal(episode.frames, frames)
    np.testing.assert_array_equal(episode.actions, actions.clip(-1, 1))
    np.testing.assert_array_equal(episode.rewards, rewards)


def test_recordings_are_read_in_order(synthetic_recordings: Path, make_episode: MakeEpisode) -> None:
    episodes = load_demonstrations(synthetic_recordings / "hammer", **SIZES, task="hammer")
    expected = [make_episode("hammer", behaviour, seed) for behaviour in ("expert", "random") for seed in range(3)]
    assert [episode.info for episode in episodes] == [episode.info for episode in expected]
    for episode, other in zip(episodes, expected, strict=True):
        np.testing.assert_array_equal(episode.frames, other.frames)
    assert len(load_demonstrations(synthetic_recordings, **SIZES)) == 12


def test_actions_of_recordings_are_clipped(make_episode: MakeEpisode, tmp_path: Path) -> None:
    episode = make_episode("hammer", "expert", 0)
    replace(episode, actions=2 * episode.actions).save(tmp_path / "one.safetensors")
    (read,) = load_demonstrations(tmp_path / "one.safetensors", **SIZES)
    np.testing.assert_array_equal(read.actions, (2 * episode.actions).clip(-1, 1))


def test_demonstrations_can_be_added_to_a_replay(values: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    write(tmp_path / "hammer" / "one.npz", values)
    replay = ReplayBuffer((64, 64, 3), 4, 200)
    for episode in load_demonstrations(tmp_path, **SIZES):
        replay.add_demonstration(episode)
    assert len(replay) == STEPS
    # the replay's stacks are the ones that were recorded, but for their layout
    stacks = replay.starts(np.random.default_rng(0), 20).frames
    recorded = {stack.tobytes() for stack in values["observation"]}
    assert {stack.transpose(0, 3, 1, 2).tobytes() for stack in stacks} <= recorded


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"frame_shape": (32, 32, 3)}, r"frames: expected \(32, 32, 3\), got \(64, 64, 3\)"),
        ({"action_dim": 2}, "action dimension: expected 2, got 4"),
        ({"task": "plate-slide"}, "task: expected plate-slide, got hammer"),
    ],
)
@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_demonstration_of_another_environment_is_named(
    sizes: dict[str, Any],
    expected: str,
    kind: str,
    values: dict[str, NDArray[Any]],
    make_episode: MakeEpisode,
    tmp_path: Path,
) -> None:
    write(tmp_path / "hammer" / "one.npz", values)
    make_episode("hammer", "expert", 0).save(tmp_path / "hammer" / "one.safetensors")
    with pytest.raises(DataError, match=rf"one\.{kind}.*{expected}"):
        load_demonstrations(tmp_path / "hammer" / f"one.{kind}", **SIZES | sizes)


def changed(values: dict[str, NDArray[Any]], name: str, index: Any, value: float) -> dict[str, NDArray[Any]]:
    copy = values[name].copy()
    copy[index] = value
    return values | {name: copy}


BROKEN: dict[str, tuple[Callable[[dict[str, NDArray[Any]]], dict[str, Any]], str]] = {
    "reward": (lambda values: changed(values, "reward", 7, np.nan), "not finite"),
    "action": (lambda values: changed(values, "action", 3, np.inf), "not finite"),
    "terminates": (lambda values: changed(values, "discount", -1, 0), "expected discounts of 1"),
    "floats": (
        lambda values: values | {"observation": values["observation"][..., :2, :2] / 255},
        r"expected frames uint8 \[101, H, W, 3\], got float64",
    ),
    "channels": (lambda values: values | {"observation": values["observation"][:, :8]}, r"got \[101, 8, 64, 64\]"),
    "last": (lambda values: values | {"observation": values["observation"].transpose(0, 2, 3, 1)}, r"3 S, H, W"),
    "order": (lambda values: values | {"observation": values["observation"][::-1]}, "newest frame last"),
    "lengths": (lambda values: values | {"action": values["action"][:-1]}, "arrays of one length"),
    "rewards": (lambda values: values | {"reward": values["reward"].repeat(2, 1)}, r"expected rewards float32 \[100\]"),
    "row": (lambda values: values | {"reward": values["reward"].T}, "arrays of one length"),
    "words": (lambda values: values | {"action": values["action"].astype("U9")}, "actions as an array of numbers"),
    "no step": (lambda values: {name: array[:1] for name, array in values.items()}, r"T \+ 1"),
    "missing": (lambda values: {"observation": values["observation"]}, "npz file with the arrays observation, action"),
    "objects": (lambda values: values | {"reward": np.array([{}] * 101, object)}, "allow_pickle"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_damaged_reference_file_is_named(kind: str, values: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    change, expected = BROKEN[kind]
    write(tmp_path / "hammer" / "broken.npz", change(values))
    with pytest.raises(DataError, match=rf"can be read:\n.*hammer.broken\.npz: .*{expected}"):
        load_demonstrations(tmp_path, **SIZES)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999])
def test_truncated_reference_file_is_left_out_with_a_warning(
    share: float, values: dict[str, NDArray[Any]], make_episode: MakeEpisode, tmp_path: Path
) -> None:
    folder = tmp_path / "hammer"
    whole = write(folder / "whole.npz", values).read_bytes()
    (folder / "cut.npz").write_bytes(whole[: int(share * len(whole))])
    make_episode("hammer", "expert", 0).save(folder / "fine.safetensors")
    with pytest.warns(UserWarning, match=r"left out a demonstration\. .*cut\.npz"):
        episodes = load_demonstrations(folder, **SIZES, task="hammer")
    assert sorted(len(episode) for episode in episodes) == [12, STEPS]


def test_truncated_recording_is_left_out_with_a_warning(make_episode: MakeEpisode, tmp_path: Path) -> None:
    for seed in range(3):
        make_episode("hammer", "expert", seed).save(tmp_path / f"{seed}.safetensors")
    whole = (tmp_path / "1.safetensors").read_bytes()
    (tmp_path / "1.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"1\.safetensors.*make it again"):
        episodes = load_demonstrations(tmp_path, **SIZES)
    assert [episode.info.seed for episode in episodes] == [0, 2]


def test_another_task_beside_a_damaged_file_is_an_error(make_episode: MakeEpisode, tmp_path: Path) -> None:
    (tmp_path / "a.npz").touch()
    make_episode("hammer", "expert", 0).save(tmp_path / "b.safetensors")
    with warnings.catch_warnings(), pytest.raises(DataError, match=r"b\.safetensors.*task"):
        load_demonstrations(tmp_path, **SIZES, task="plate-slide")


@pytest.mark.parametrize("where", ["", "nowhere"])
def test_missing_demonstrations_are_an_error(where: str, tmp_path: Path) -> None:
    (tmp_path / ".hidden.npz").touch()
    with pytest.raises(DataError, match=r"expected demonstrations .*found none.*worldgym collect --out"):
        load_demonstrations(tmp_path / where, **SIZES)
