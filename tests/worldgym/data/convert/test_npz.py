from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldgym.data.recordings import Recordings


def write(path: Path, **arrays: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def actions_of(count: int, length: int = 4) -> Any:
    return np.random.default_rng(count).uniform(-1, 1, (count, length))


def test_robot_recordings(tmp_path: Path, make_clip: Callable[..., Any], conversion: Any) -> None:
    clip, actions = make_clip(6), actions_of(6)
    write(tmp_path / "push" / "train" / "a.npz", image=clip.astype(np.int64), action=actions)
    write(tmp_path / "push" / "train" / "b.npz", image=clip[..., :1], action=actions, reward=np.arange(6.0))
    assert conversion.run("npz", tmp_path / "push").written == 2
    first, second = conversion.episodes
    assert first.path == tmp_path / "out" / "train" / "a.safetensors"
    assert (first.info.environment, first.info.task, first.info.behaviour) == ("npz:push", "train", "recorded")
    conversion.check_frames(first, clip)
    np.testing.assert_array_equal(first.actions, actions[:5].astype(np.float32))
    np.testing.assert_array_equal(first.rewards, np.zeros(5))
    conversion.check_frames(second, clip[..., :1])  # grayscale
    np.testing.assert_array_equal(second.rewards, np.arange(5))
    assert not first.info.terminated


def test_replay_of_an_agent(tmp_path: Path, make_clip: Callable[..., Any], conversion: Any) -> None:
    clip, actions = make_clip(5), actions_of(5)
    planes = np.moveaxis(clip, -1, 1)
    stacked = np.concatenate([np.zeros_like(planes), np.zeros_like(planes), planes], axis=1)
    rewards, discounts = np.arange(5.0)[:, None], np.array([[1.0], [1], [1], [1], [0]])
    write(tmp_path / "buffer" / "0.npz", observation=stacked, action=actions, reward=rewards, discount=discounts)
    write(tmp_path / "buffer" / "1.npz", observation=stacked, action=actions, reward=rewards, discount=np.ones((5, 1)))
    write(tmp_path / "buffer" / "2.npz", observation=clip, action=actions, reward=rewards)
    outcome = conversion.run("npz", tmp_path / "buffer")
    assert "expected observations [N, 3 k, h, w]" in outcome.left_out["2"]
    ended, cut = conversion.episodes
    conversion.check_frames(ended, clip)
    np.testing.assert_array_equal(ended.actions, actions[1:].astype(np.float32))
    np.testing.assert_array_equal(ended.rewards, np.arange(1, 5))
    assert (ended.info.terminated, cut.info.terminated) == (True, False)


def test_bad_members_are_named_and_left_out(
    tmp_path: Path, make_clip: Callable[..., Any], conversion: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, folder = make_clip(4), tmp_path / "episodes"
    good = {"image": clip, "action": actions_of(4)}
    write(folder / "a-good.npz", **good)
    (folder / "b-cut.npz").write_bytes((folder / "a-good.npz").read_bytes()[:300])
    write(folder / "c-empty.npz", image=clip[:0], action=actions_of(4)[:0])
    write(folder / "d-longer-actions.npz", image=clip, action=actions_of(4, 5))
    write(folder / "e-rewards.npz", **good, reward=np.array([0, np.nan, 0, 0]))
    write(folder / "f-lengths.npz", image=clip, action=actions_of(3))
    write(folder / "g-floats.npz", image=clip / 255, action=actions_of(4))
    write(folder / "h-pickled.npz", image=np.array([{}] * 4), action=actions_of(4))
    write(folder / "i-no-pictures.npz", action=actions_of(4))
    write(folder / "j-one-frame.npz", image=clip[:1], action=actions_of(1))
    write(folder / "k-good.npz", **good)
    write(folder / ".hidden.npz", **good)
    outcome = conversion.run("npz", folder)
    reasons = {
        "b-cut": "not a readable npz episode",
        "c-empty": "expected at least 2 frames, got 0",
        "d-longer-actions": "expected actions of length 4 as in the first episode, got length 5",
        "e-rewards": "got nan at step 1",
        "f-lengths": "expected one action for each of 4 pictures",
        "g-floats": "expected pictures uint8",
        "h-pickled": "allow_pickle=False",
        "i-no-pictures": "expected pictures, found none",
        "j-one-frame": "expected at least 2 frames, got 1",
    }
    conversion.check_left_out(outcome, reasons)
    shown = capsys.readouterr().err
    assert all(f"left out {name}: " in shown for name in reasons)
    assert [episode.path.stem for episode in conversion.episodes] == ["a-good", "k-good"]


def test_a_camera_is_chosen_among_several(tmp_path: Path, make_clip: Callable[..., Any], conversion: Any) -> None:
    clips = {"image": make_clip(3), "aux1_image": make_clip(3, seed=1)}
    write(tmp_path / "one.npz", **clips)
    conversion.check_cameras("npz", tmp_path / "one.npz", clips)
    assert Recordings(tmp_path / "out").action_dim == 0
