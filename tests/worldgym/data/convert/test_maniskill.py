import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from worldgym.errors import DataError


def write_trajectory(path: Path, name: str, clip: Any, camera: str = "base_camera", **changes: Any) -> None:
    """A trajectory as ManiSkill's RecordEpisode writes it, one picture more than actions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = len(clip) - 1
    parts = {
        "actions": np.random.default_rng(steps).uniform(-1, 1, (steps, 7)).astype(np.float32),
        "rewards": np.arange(steps, dtype=np.float32),
        "success": np.arange(steps) == steps - 1,
        "terminated": np.arange(steps) == steps - 1,
        "truncated": np.zeros(steps, np.bool_),
        **changes,
    }
    with h5py.File(path, "a") as file:
        group = file.require_group(name)
        group.create_dataset(f"obs/sensor_data/{camera}/rgb", data=clip, compression="gzip")
        group[f"obs/sensor_data/{camera}/depth"] = np.zeros((len(clip), 4, 4, 1), np.int16)
        for part, values in parts.items():
            if values is not None and part not in group:
                group[part] = values
    path.with_suffix(".json").write_text(json.dumps({"env_info": {"env_id": "PushCube-v1"}, "episodes": []}))


def test_trajectories(tmp_path: Path, make_clip: Callable[..., Any], conversion: Any) -> None:
    clip, path = make_clip(5), tmp_path / "push" / "trajectory.rgb.pd_ee_delta_pose.h5"
    write_trajectory(path, "traj_10", clip[:3], terminated=np.zeros(2, np.bool_), rewards=None)
    write_trajectory(path, "traj_9", clip)
    assert conversion.run("maniskill", tmp_path / "push").written == 2
    cut, whole = conversion.episodes
    conversion.check_frames(whole, clip)
    np.testing.assert_array_equal(whole.rewards, np.arange(4))
    np.testing.assert_array_equal(whole.successes, [False, False, False, True])
    assert whole.actions.shape == (4, 7)
    assert (whole.info.task, whole.info.terminated, cut.info.terminated) == ("PushCube-v1", True, False)
    assert not cut.rewards.any()


def test_a_camera_is_chosen_among_several(tmp_path: Path, make_clip: Callable[..., Any], conversion: Any) -> None:
    clips = {"base_camera": make_clip(3), "hand_camera": make_clip(3, seed=1)}
    for camera, clip in clips.items():
        write_trajectory(tmp_path / "trajectory.h5", "traj_0", clip, camera)
    conversion.check_cameras("maniskill", tmp_path / "trajectory.h5", clips)


@pytest.mark.parametrize("observations", [np.zeros((3, 35), np.float32), None])
def test_files_without_pictures_name_the_command_that_draws_them(
    observations: Any, tmp_path: Path, make_clip: Callable[..., Any], conversion: Any
) -> None:
    with h5py.File(tmp_path / "trajectory.h5", "w") as file:
        for index in range(3):
            file[f"traj_{index}/actions"] = np.zeros((2, 7))
            if observations is not None:
                file[f"traj_{index}/obs"] = observations
    with pytest.raises(
        DataError, match=r"none of 1; .*replay_trajectory --traj-path .*trajectory\.h5 .*--obs-mode rgb"
    ):
        conversion.run("maniskill", tmp_path / "trajectory.h5")


def test_bad_members_are_named_and_left_out(tmp_path: Path, make_clip: Callable[..., Any], conversion: Any) -> None:
    clip, folder = make_clip(4), tmp_path / "demos"
    path = folder / "a.h5"
    write_trajectory(path, "traj_0", clip)
    write_trajectory(path, "traj_1", clip[:1])
    write_trajectory(path, "traj_2", clip, actions=np.zeros((3, 6)))
    write_trajectory(path, "traj_3", clip, rewards=np.array([0, np.nan, 0]))
    write_trajectory(path, "traj_4", clip, actions=np.zeros((2, 7)))
    write_trajectory(path, "traj_5", clip[..., :1])  # grayscale
    with h5py.File(path, "a") as file:
        del file["traj_0/obs/sensor_data/base_camera/depth"]
        file["traj_6/actions/robot_a"] = file["traj_6/actions/robot_b"] = np.zeros((3, 7))
        file["traj_6/obs"] = file["traj_0/obs"]
        file["traj_7/actions"] = np.zeros((3, 7))
    (folder / "b.h5").write_bytes(path.read_bytes()[:800])
    path.with_suffix(".json").write_text("{")
    reasons = {
        "a.h5/traj_1": "expected at least 2 frames, got 1",
        "a.h5/traj_2": "expected actions of length 7 as in the first episode, got length 6",
        "a.h5/traj_3": "got nan at step 1",
        "a.h5/traj_4": "expected frames uint8 [3, H, W, 3], got uint8 [4, 16, 16, 3]",
        "a.h5/traj_6": "expected actions of one robot in traj_6, got robot_a, robot_b",
        "a.h5/traj_7": "expected pictures, found none",
        "b.h5": "not a readable HDF5 file",
    }
    conversion.check_left_out(conversion.run("maniskill", folder), reasons)
    first, gray = conversion.episodes
    conversion.check_frames(gray, clip[..., :1])
    assert first.info.task == "a"  # its description is damaged
