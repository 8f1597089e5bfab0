import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldgym.data.convert.formats import open_source


def write_demo(data: Any, name: str, clip: Any, following: Any = None, **changes: Any) -> None:
    """A demonstration whose pictures are ``clip``."""
    count = len(clip)
    actions = np.random.default_rng(count).uniform(-1, 1, (count, 7))
    steps = {"actions": actions, "rewards": np.arange(float(count)), "dones": np.arange(count) == count - 1}
    demo = data.create_group(name)
    for part, values in {**steps, **changes}.items():
        demo[part] = values
    demo["obs/agentview_image"] = clip
    demo["obs/agentview_depth"] = np.zeros((*clip.shape[:3], 1), np.float32)
    demo["obs/robot0_eef_pos"] = np.zeros((count, 3))
    if following is not None:
        demo["next_obs/agentview_image"] = following


def test_observations_before_and_after_each_action(
    tmp_path: Path, make_clip: Callable[..., Any], conversion: Any
) -> None:
    clip = make_clip(41)
    with h5py.File(tmp_path / "lift.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift"})
        write_demo(data, "demo_10", clip[:5])
        write_demo(data, "demo_9", clip[:-1], following=clip[1:])
    assert [member.name for member in open_source("robomimic", tmp_path / "lift.hdf5").members()] == [
        "lift.hdf5/demo_9",
        "lift.hdf5/demo_10",
    ]
    assert conversion.run("robomimic", tmp_path / "lift.hdf5").written == 2
    short, whole = conversion.episodes
    assert short.info.task == whole.info.task == "Lift"
    conversion.check_frames(whole, clip)
    np.testing.assert_array_equal(whole.rewards, np.arange(40))
    conversion.check_frames(short, clip[:5])
    np.testing.assert_array_equal(short.rewards, np.arange(4))
    assert (short.info.terminated, whole.info.terminated) == (False, True)


def test_libero_stores_observations_after_each_action(
    tmp_path: Path, make_clip: Callable[..., Any], conversion: Any
) -> None:
    clip = make_clip(4, size=16).copy()
    clip[:, 0] = 255  # the top
    with h5py.File(tmp_path / "turn_on_the_stove_demo.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["macros_image_convention"] = "opengl"
        data.attrs["problem_info"] = json.dumps({"language_instruction": "turn on the stove"})
        write_demo(data, "demo_0", clip[:, ::-1], actions=np.arange(28.0).reshape(4, 7))
    conversion.run("robomimic", tmp_path)
    (episode,) = conversion.episodes
    np.testing.assert_array_equal(episode.frames(), clip)
    np.testing.assert_array_equal(episode.actions, np.arange(7.0, 28).reshape(3, 7))
    np.testing.assert_array_equal(episode.rewards, [1, 2, 3])
    assert (episode.info.task, episode.info.terminated) == ("turn on the stove", True)


def test_bad_members_are_named_and_left_out(tmp_path: Path, make_clip: Callable[..., Any], conversion: Any) -> None:
    clip, folder = make_clip(4), tmp_path / "demos"
    folder.mkdir()
    with h5py.File(folder / "a.hdf5", "w") as file:
        data = file.create_group("data")
        write_demo(data, "demo_0", clip)
        write_demo(data, "demo_1", clip[:0])
        write_demo(data, "demo_2", clip, actions=np.zeros((4, 6)))
        write_demo(data, "demo_3", clip, rewards=np.array([0, np.nan, 0, 0]))
        write_demo(data, "demo_4", clip, dones=np.zeros(3))
        write_demo(data, "demo_5", clip[..., 0])  # grayscale
        write_demo(data, "demo_6", clip)
        del data["demo_6/actions"]
        data.create_group("demo_7")
    content = (folder / "a.hdf5").read_bytes()
    (folder / "b.hdf5").write_bytes(content[: len(content) // 3])
    with h5py.File(folder / "c.h5", "w") as file:
        file["other"] = 1
    outcome = conversion.run("robomimic", folder)
    reasons = {
        "a.hdf5/demo_1": "expected at least 2 frames, got 0",
        "a.hdf5/demo_2": "expected actions of length 7 as in the first episode",
        "a.hdf5/demo_3": "got nan at step 1",
        "a.hdf5/demo_4": "expected one of the dones for each of 4 pictures, got 3",
        "a.hdf5/demo_6": "expected data/demo_6/actions",
        "a.hdf5/demo_7": "not readable (KeyError",
        "b.hdf5": "not a readable HDF5 file",
        "c.h5": "expected a group data with demonstrations, found other",
    }
    conversion.check_left_out(outcome, reasons)
    gray = conversion.episodes[1]
    conversion.check_frames(gray, clip[..., :1])


def test_a_camera_is_chosen_among_several(tmp_path: Path, make_clip: Callable[..., Any], conversion: Any) -> None:
    clips = {"agentview_image": make_clip(3), "wrist_image": make_clip(3, seed=1)}
    with h5py.File(tmp_path / "two.hdf5", "w") as file:
        write_demo(file.create_group("data"), "demo_0", clips["agentview_image"])
        file["data/demo_0/obs/wrist_image"] = clips["wrist_image"]
    conversion.check_cameras("robomimic", tmp_path / "two.hdf5", clips)
