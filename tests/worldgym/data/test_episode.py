from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open
from safetensors.numpy import save_file

from worldgym.data.episode import Episode, EpisodeFile, EpisodeInfo
from worldgym.errors import DataError, StorageError

MakeEpisode = Callable[..., Episode]
INFO = EpisodeInfo("Toy", "hammer", "random", 3, 2)
SIZES = st.tuples(st.integers(0, 4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3))
FINITE = {"allow_nan": False, "allow_infinity": False}


@st.composite
def episodes(draw: st.DrawFn) -> Episode:
    steps, height, width, actions = draw(SIZES)
    return Episode(
        draw(arrays.arrays(np.uint8, (steps + 1, height, width, 3))),
        draw(arrays.arrays(np.float32, (steps, actions), elements=st.floats(-1, 1, width=32))),
        draw(arrays.arrays(np.float32, steps, elements=st.floats(width=32, **FINITE))),  # type: ignore[arg-type]
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
    with pytest.raises(DataError, match=r"cut\.safetensors.*collect it again"):
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


def test_an_episode_file_with_misshapen_tensors_is_refused(make_episode: MakeEpisode, tmp_path: Path) -> None:
    path = tmp_path / "flat.safetensors"
    make_episode("hammer", "expert", 0).save(path)
    with safe_open(path, "np") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file({**tensors, "actions": tensors["actions"].flatten()}, path, metadata)
    with pytest.raises(DataError, match=r"flat\.safetensors: expected frames"):
        EpisodeFile(path)


def test_what_is_no_episode_is_refused(make_episode: MakeEpisode) -> None:
    good = make_episode("hammer", "expert", 0)
    broken = good.actions.copy()
    broken[2, 1] = np.nan
    with pytest.raises(DataError, match="not finite"):
        replace(good, actions=broken)
    with pytest.raises(DataError, match="13 frames"):
        replace(good, frames=good.frames[:-1])
    with pytest.raises(DataError, match="uint8"):
        replace(good, frames=good.frames.astype(np.float32))
    with pytest.raises(DataError, match="rewards"):
        replace(good, rewards=good.rewards[:3])


def test_a_failed_write_leaves_nothing(
    make_episode: MakeEpisode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("worldgym.data.episode.save_file", full)
    with pytest.raises(StorageError, match=r"No space left.*Nothing half-written is left.*GB are free"):
        make_episode("hammer", "expert", 0).save(tmp_path / "episode.safetensors")
    assert list(tmp_path.iterdir()) == []
