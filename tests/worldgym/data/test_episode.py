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
from safetensors import safe_open
from safetensors.numpy import save_file

from worldgym.data.episode import Episode, EpisodeFile, EpisodeInfo
from worldgym.errors import DataError, StorageError

MakeEpisode = Callable[..., Episode]
INFO = EpisodeInfo("Toy", "hammer", "random", 3, 2)
SIZES = st.tuples(st.integers(0, 4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3))


@st.composite
def episodes(draw: st.DrawFn) -> Episode:
    steps, height, width, actions = draw(SIZES)
    return Episode(
        draw(arrays.arrays(np.uint8, (steps + 1, height, width, 3))),
        draw(arrays.arrays(np.float32, (steps, actions), elements=st.floats(-1, 1, width=32))),
        draw(arrays.arrays(np.float32, steps, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))),
        draw(arrays.arrays(np.bool_, steps)),
        draw(st.builds(EpisodeInfo, st.text(), st.text(), st.text(), st.integers(0, 2**40), st.integers(1, 8))),
    )


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(episode=episodes())
def test_a_saved_episode_is_read_back_as_it_was(episode: Episode, tmp_path: Path) -> None:
    episode.save(tmp_path / "episode.safetensors")
    read = EpisodeFile(tmp_path / "episode.safetensors").load()
    assert read.info == episode.info
    for name in ("frames", "actions", "rewards", "successes"):
        np.testing.assert_array_equal(getattr(read, name), getattr(episode, name))
        assert getattr(read, name).dtype == getattr(episode, name).dtype


def test_random_access_gives_what_the_whole_episode_holds(make_episode: MakeEpisode, tmp_path: Path) -> None:
    episode = make_episode("hammer", "expert", 0)
    episode.save(tmp_path / "episode.safetensors")
    file = EpisodeFile(tmp_path / "episode.safetensors")
    assert len(file) == len(episode)
    assert file.shape == episode.frames.shape
    for start, stop in ((0, 1), (3, 7), (0, None), (len(episode), None)):
        np.testing.assert_array_equal(file.frames(start, stop), episode.frames[start:stop])


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_a_file_cut_short_is_named(make_episode: MakeEpisode, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.safetensors"
    make_episode("hammer", "expert", 0).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"cut\.safetensors is damaged or not a recorded episode.*make it again"):
        EpisodeFile(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.safetensors"):
        EpisodeFile(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    "metadata",
    [None, {"format": "other"}, {"format": "worldgym-episode-1"}, {"format": "worldgym-episode-1", "info": "{}"}],
)
def test_another_safetensors_file_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"frames": np.zeros((2, 4, 4, 3), np.uint8)}, path, metadata)
    with pytest.raises(DataError, match=r"other\.safetensors"):
        EpisodeFile(path)


def test_an_episode_file_without_its_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "poor.safetensors"
    info = '{"environment": "Toy", "task": "t", "behaviour": "b", "seed": 0, "frame_skip": 1}'
    save_file({"frames": np.zeros((2, 4, 4, 3), np.uint8)}, path, {"format": "worldgym-episode-1", "info": info})
    with pytest.raises(DataError, match=r"poor\.safetensors"):
        EpisodeFile(path)


def rewritten(episode: Episode, path: Path, **changes: NDArray[Any]) -> Path:
    """The file of an episode with other tensors, as other programs may write it."""
    episode.save(path)
    with safe_open(path, "np") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file({**tensors, **changes}, path, metadata)
    return path


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("actions", np.zeros(48, np.float32), r"expected actions float32 \[12, A\], got float32 \[48\]"),
        ("actions", np.full((12, 4), 1e39), "too large for float32"),
        ("rewards", np.zeros(11, np.float32), r"expected rewards float32 \[12\], got float32 \[11\]"),
        ("rewards", np.zeros((12, 2), np.float32), r"expected rewards float32 \[12\], got float32 \[12, 2\]"),
        ("rewards", np.full(12, np.nan, np.float32), "not finite"),
        ("successes", np.zeros((1, 12), np.uint8), r"expected successes bool \[12\], got uint8 \[1, 12\]"),
        ("frames", np.zeros((13, 8, 8, 3), np.float32), r"expected frames uint8 .*, got F32 \[13, 8, 8, 3\]"),
        ("frames", np.zeros((13, 3, 8, 8), np.uint8), r"expected frames uint8 .*, got U8 \[13, 3, 8, 8\]"),
        ("frames", np.zeros((0, 8, 8, 3), np.uint8), r"expected frames uint8 .*, got U8 \[0, 8, 8, 3\]"),
    ],
)
def test_a_file_with_other_arrays_is_refused_when_it_is_opened(
    make_episode: MakeEpisode, tmp_path: Path, name: str, value: NDArray[Any], message: str
) -> None:
    path = rewritten(make_episode("hammer", "expert", 0), tmp_path / "other.safetensors", **{name: value})
    with pytest.raises(DataError, match=rf"other\.safetensors: .*{message}"):
        EpisodeFile(path)


def test_rewards_in_a_column_are_the_same_rewards(make_episode: MakeEpisode, tmp_path: Path) -> None:
    episode = make_episode("hammer", "expert", 0)
    columns: dict[str, Any] = {"rewards": episode.rewards[:, None], "successes": episode.successes[:, None]}
    path = rewritten(episode, tmp_path / "column.safetensors", **columns)
    for read in (replace(episode, **columns), EpisodeFile(path), EpisodeFile(path).load()):
        np.testing.assert_array_equal(read.rewards, episode.rewards, strict=True)
        np.testing.assert_array_equal(read.successes, episode.successes, strict=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": lambda old: old[:-1]}, r"expected frames uint8 \[13, H, W, 3\], got uint8 \[12, 64, 64, 3\]"),
        ({"frames": lambda old: old.astype(np.float32)}, r"got float32 \[13, 64, 64, 3\]; multiply by 255"),
        ({"actions": lambda old: old[:, 0]}, r"expected actions float32 \[T, A\], got float32 \[12\]"),
        ({"rewards": lambda old: old[:3]}, r"expected rewards float32 \[12\], got float32 \[3\]"),
        ({"rewards": lambda old: np.stack([old, old], 1)}, r"got float32 \[12, 2\]"),
        ({"successes": lambda old: old[None]}, r"expected successes bool \[12\], got bool \[1, 12\]"),
        ({"actions": lambda old: old * np.nan}, "not finite"),
        ({"rewards": lambda old: old.astype(np.float64) + 1e39}, "too large for float32"),
    ],
)
def test_other_arrays_are_no_episode(
    make_episode: MakeEpisode, changes: dict[str, Callable[[Any], Any]], message: str
) -> None:
    good = make_episode("hammer", "expert", 0)
    with pytest.raises(DataError, match=message):
        replace(good, **{name: change(getattr(good, name)) for name, change in changes.items()})


def test_float64_becomes_float32(make_episode: MakeEpisode, tmp_path: Path) -> None:
    episode = make_episode("hammer", "expert", 0)
    wide = replace(episode, actions=episode.actions.astype(float), rewards=episode.rewards.astype(float))
    assert wide.actions.dtype == wide.rewards.dtype == np.float32
    wide.save(tmp_path / "wide.safetensors")
    np.testing.assert_array_equal(EpisodeFile(tmp_path / "wide.safetensors").rewards, episode.rewards, strict=True)


def test_a_failed_write_leaves_nothing(
    make_episode: MakeEpisode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("worldgym.data.episode.save_file", full)
    with pytest.raises(StorageError, match=r"No space left.*No incomplete file is left.*GB are free"):
        make_episode("hammer", "expert", 0).save(tmp_path / "episode.safetensors")
    assert list(tmp_path.iterdir()) == []
