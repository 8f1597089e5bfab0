from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from worldgym.reports.video import write_mp4

CODEC_ERROR = 4  # of a flat colour, by H.264 and by JPEG


@pytest.fixture
def write_file(tmp_path: Path, encode: Callable[..., list[bytes]]) -> Callable[..., Path]:
    """Write an episode as RoboNet's files are laid out; the pictures are a video or JPEG files."""

    def write(name: str, clip: Any, jpeg: bool = False, order: str = "RGB", camera: str = "cam0", **about: Any) -> Path:
        path = tmp_path / "robonet" / f"{name}.hdf5"
        path.parent.mkdir(exist_ok=True)
        actions = about.pop("actions", np.zeros((len(clip) - 1, 4)))
        with h5py.File(path, "a") as file:
            pictures = file.create_group(f"env/{camera}_video")
            if jpeg:
                for index, content in enumerate(encode(clip, "JPEG")):
                    pictures[f"frame{index}"] = np.frombuffer(content, np.uint8)
            else:
                write_mp4(tmp_path / "frames.mp4", clip)
                pictures["frames"] = np.frombuffer((tmp_path / "frames.mp4").read_bytes(), np.uint8)
                pictures["frames"].attrs["T"] = len(clip)
            for item in pictures.values():
                item.attrs["image_format"] = order
            if "policy" not in file:
                file["policy/actions"] = actions
                file["env/state"] = about.pop("states", np.zeros((len(clip), 5)))
                file.create_group("metadata").attrs.update({"robot": "sawyer", **about})
        return path.parent

    return write


def test_videos(write_file: Callable[..., Path], make_clip: Callable[..., Any], conversion: Any) -> None:
    clip, actions = make_clip(6), np.random.default_rng(0).uniform(-1, 1, (5, 4))
    write_file("a", clip, actions=actions)
    write_file("b", clip, actions=actions[:3])  # RoboNet's loader cuts the longer one
    assert conversion.run("robonet", write_file("c", clip[..., ::-1], order="BGR")).written == 3
    whole, cut, turned = conversion.episodes
    conversion.check_frames(whole, clip, CODEC_ERROR)
    conversion.check_frames(cut, clip[:4], CODEC_ERROR)
    conversion.check_frames(turned, clip, CODEC_ERROR)
    np.testing.assert_allclose(whole.actions, actions, atol=1e-6)
    assert whole.info.task == "sawyer"


def test_jpegs_are_stored_as_opencv_reads_them(
    write_file: Callable[..., Path], make_clip: Callable[..., Any], conversion: Any
) -> None:
    clip = make_clip(12)
    write_file("a", clip, jpeg=True, order="BGR")
    conversion.run("robonet", write_file("b", clip[..., ::-1], jpeg=True))
    for episode in conversion.episodes:
        conversion.check_frames(episode, clip, CODEC_ERROR)


def test_a_camera_is_chosen_among_several(
    write_file: Callable[..., Path], make_clip: Callable[..., Any], conversion: Any
) -> None:
    clips = {"cam0": make_clip(3), "cam1": make_clip(3, seed=1)}
    for camera, clip in clips.items():
        folder = write_file("a", clip, camera=camera)
    conversion.check_cameras("robonet", folder, clips, CODEC_ERROR)


def test_a_reflex_closes_the_gripper(
    write_file: Callable[..., Path], make_clip: Callable[..., Any], conversion: Any
) -> None:
    states = np.zeros((4, 5))
    states[:, 4] = 1, -1, 1, 0.2
    bounds = {"low_bound": np.array([0, 0, 0, 0, -1.0]), "high_bound": np.array([1, 1, 1, 1, 1.0])}
    conversion.run("robonet", write_file("a", make_clip(4), primitives="autograsp", states=states, **bounds))
    np.testing.assert_array_equal(conversion.episodes[0].actions, [[0, 0, 0, 0, grip] for grip in (-1, 1, 1)])


def test_bad_members_are_named_and_left_out(
    write_file: Callable[..., Path], make_clip: Callable[..., Any], conversion: Any
) -> None:
    clip = make_clip(4)
    for name in ("a", "b", "c", "d", "e"):
        folder = write_file(name, clip, jpeg=True)
    write_file("f", clip, jpeg=True, actions=np.zeros((3, 5)))
    write_file("g", clip)
    write_file("h", clip, jpeg=True, primitives="autograsp", states=np.zeros((2, 5)), low_bound=[0.0], high_bound=[1.0])
    with h5py.File(folder / "b.hdf5", "a") as file:
        del file["env/cam0_video/frame2"]
    with h5py.File(folder / "c.hdf5", "a") as file:
        del file["policy"]
    with h5py.File(folder / "d.hdf5", "a") as file:
        file["env/cam0_video/frame1"][:] = 0
    (folder / "e.hdf5").write_bytes((folder / "e.hdf5").read_bytes()[:900])
    with h5py.File(folder / "g.hdf5", "a") as file:
        file["env/cam0_video/frames"][40:] = 0
    reasons = {
        "b": "expected frames, or frame0 to frameN, of cam0; got frame0, frame1, frame3",
        "c": "expected policy/actions, found env, metadata",
        "d": "cannot identify image file",
        "e": "not a readable HDF5 file",
        "f": "expected actions of length 4 as in the first episode, got length 5",
        "g": "ffmpeg cannot decode it",
        "h": "expected a state after each of 3 actions, got 1",
    }
    conversion.check_left_out(conversion.run("robonet", folder), reasons)
