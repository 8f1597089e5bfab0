from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from worldgym.data.convert.formats import FORMATS, open_source
from worldgym.data.convert.source import Member, RawEpisode
from worldgym.data.convert.writing import Target, convert
from worldgym.data.pictures import resized, to_picture
from worldgym.data.recordings import Recordings
from worldgym.errors import ConfigError, DataError


class Listed:
    """Episodes from memory; counts how often each is read."""

    def __init__(self, episodes: dict[str, Any]) -> None:
        self.episodes, self.reads = episodes, dict.fromkeys(episodes, 0)

    def members(self) -> list[Member]:
        return [Member(name, ()) for name in self.episodes]

    def read(self, member: Member) -> RawEpisode:
        self.reads[member.name] += 1
        found = self.episodes[member.name]
        if isinstance(found, BaseException):
            raise found
        assert isinstance(found, RawEpisode)
        return found


def raw(clip: Any, **options: Any) -> RawEpisode:
    return RawEpisode(clip, "task", np.zeros((len(clip) - 1, 2)), **options)


def test_a_stopped_conversion_continues(tmp_path: Path, make_clip: Callable[..., Any]) -> None:
    clip, target = make_clip(3), Target(tmp_path, "here", resolution=8)
    source = Listed({"a": raw(clip), "b/c": raw(clip), "d": KeyboardInterrupt(), "e": raw(clip)})
    with pytest.raises(KeyboardInterrupt):
        convert(source, target)
    assert [path.name for path in sorted(tmp_path.rglob("*.*"))] == ["a.safetensors", "c.safetensors"]
    source.episodes["d"] = raw(clip)
    outcome = convert(source, target)
    assert (outcome.written, outcome.kept) == (2, 2)
    assert (source.reads["a"], source.reads["b/c"]) == (1, 1)
    assert len(Recordings(tmp_path).episodes) == 4
    assert convert(source, target).kept == 4


def test_what_continues_must_be_alike(tmp_path: Path, make_clip: Callable[..., Any]) -> None:
    clip = make_clip(3)
    source = Listed({"a": raw(clip)})
    convert(source, Target(tmp_path, "here", resolution=8))
    for other in (
        Target(tmp_path, "there", resolution=8),
        Target(tmp_path, "here", "side", resolution=8),
        Target(tmp_path, "here", resolution=16),
    ):
        with pytest.raises(ConfigError, match="convert into a folder of its own"):
            convert(source, other)
    source.episodes["b"] = RawEpisode(clip, "task", np.zeros((2, 3)))
    source.reads["b"] = 0
    assert "expected actions of length 2" in convert(source, Target(tmp_path, "here", resolution=8)).left_out["b"]


def test_few_episodes_are_read_ahead(tmp_path: Path, make_clip: Callable[..., Any]) -> None:
    source = Listed({f"{index:03d}": raw(make_clip(2)) for index in range(40)})
    source.episodes["005"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        convert(source, Target(tmp_path, "here", resolution=8), workers=3)
    assert sum(source.reads.values()) <= 5 + 2 * 3 + 1


def test_frames_cannot_be_left_out_where_there_are_actions(tmp_path: Path, make_clip: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="--frame-skip: expected 1, because here has actions"):
        convert(Listed({"a": raw(make_clip(5))}), Target(tmp_path, "here", frame_skip=2))


def test_nothing_to_convert(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 1; the first reason: not readable"):
        convert(Listed({"a": EOFError("cut")}), Target(tmp_path, "here"))
    with pytest.raises(DataError, match="none of 0; the first reason: it has no episodes"):
        convert(Listed({}), Target(tmp_path, "here"))


def test_the_largest_action_is_reported(tmp_path: Path, make_clip: Callable[..., Any]) -> None:
    episode = RawEpisode(make_clip(3), "task", np.array([[0.5], [-3.0]]))
    assert convert(Listed({"a": episode}), Target(tmp_path, "here")).largest_action == 3


def test_pixels_are_means_over_areas() -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[:2, :3] = 100
    picture[2:, 3] = 90
    np.testing.assert_array_equal(resized(picture, 2)[..., 0], [[100, 0], [0, 30]])
    assert resized(picture, 5).shape == (5, 5, 3)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_pictures(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    expected = np.broadcast_to(array.reshape(4, 5, -1)[..., :3], (4, 5, 3))
    np.testing.assert_array_equal(to_picture(array), expected)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 5, 2), np.uint8), np.zeros((4, 5)), np.full((4, 5), 256), np.full((4, 5), -1), np.zeros((0, 5), int)],
)
def test_other_arrays_are_no_pictures(array: Any) -> None:
    with pytest.raises(DataError, match="expected pictures"):
        to_picture(array)


TELLTALES = {
    "lerobot": "meta/info.json",
    "rlds": "features.json",
    "bair": "train/traj_0_to_255.tfrecords",
    "minari": "data/main_data.hdf5",
    "robonet": "sawyer.hdf5",
    "maniskill": "PushCube/trajectory.h5",
    "something-something": "labels/train.json",
    "robomimic": "demo.hdf5",
    "npz": "a.npz",
    "video": "clips/a.mp4",
}
GROUPS = {"robonet": ("env", "policy"), "maniskill": ("traj_0",), "robomimic": ("data",)}


@pytest.mark.parametrize(("asked", "there"), [(a, b) for a in FORMATS for b in FORMATS if a != b])
def test_another_format_is_recognised(asked: str, there: str, tmp_path: Path) -> None:
    path = tmp_path / TELLTALES[there]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('[{"id": "1", "label": "x"}]' if path.name == "train.json" else "")
    if there in GROUPS:
        with h5py.File(path, "w") as file:
            for name in GROUPS[there]:
                file.create_group(name)
    assert f"`worldgym convert {there} " in _refusal(asked, tmp_path)


def test_an_hdf5_file_that_is_damaged_belongs_to_any_of_its_formats(tmp_path: Path) -> None:
    (tmp_path / "cut.hdf5").write_bytes(b"\x89HDF")
    for name in ("robonet", "robomimic"):
        (member,) = (source := open_source(name, tmp_path)).members()
        with pytest.raises(DataError, match="not a readable HDF5 file"):
            source.read(member)
    assert "`worldgym convert robomimic " in _refusal("maniskill", tmp_path)


def test_a_dataset_that_contains_videos_is_no_folder_of_videos(tmp_path: Path) -> None:
    for name in ("meta/info.json", "videos/front/chunk-000/file-000.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert "it looks like a LeRobot dataset" in _refusal("video", tmp_path)


def test_nothing_of_any_format(tmp_path: Path) -> None:
    assert "found an empty folder; the formats are lerobot, rlds" in _refusal("npz", tmp_path)
    (tmp_path / "notes.txt").touch()
    assert "found notes.txt" in _refusal("npz", tmp_path)
    assert "found notes.txt" in _refusal("npz", tmp_path / "notes.txt")
    assert "found nothing; check the path" in _refusal("npz", tmp_path / "missing")
    (tmp_path / "a.safetensors").touch()
    assert "own episodes" in _refusal("npz", tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'lerobot'"):
        open_source("lerobt", tmp_path)


def _refusal(name: str, src: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_source(name, src)
    return str(caught.value)
