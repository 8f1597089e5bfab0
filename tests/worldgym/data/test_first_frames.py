from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldgym.data.first_frames import FirstFrames, write_first_frames
from worldgym.errors import CheckpointError, DataError, UnknownTask


def frames(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    background = rng.integers(0, 256, (16, 16, 3), np.uint8)
    shown = np.repeat(background[None], count, axis=0)
    for index, frame in enumerate(shown):
        frame[index % 12 : index % 12 + 4, 3:7] = (250, 10, 10)
    return shown


def test_frames_are_read_back_by_task(tmp_path: Path) -> None:
    for task, seed in (("plate-slide", 0), ("pick/place", 1)):
        write_first_frames(tmp_path, task, frames(5, seed), np.arange(5) + 100)
    found = FirstFrames(tmp_path)
    assert found.tasks == ("pick/place", "plate-slide")
    np.testing.assert_array_equal(found["pick/place"].frames, frames(5, 1))
    np.testing.assert_array_equal(found["pick/place"].seeds, np.arange(5) + 100)
    assert {path.parent for path in tmp_path.rglob("*.npz")} == {tmp_path}
    with pytest.raises(UnknownTask, match="did you mean 'plate-slide'"):
        found["plate-slid"]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32))
def test_any_frames_survive(count: int, seed: int) -> None:
    import tempfile

    shown = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        write_first_frames(Path(folder), "task", shown, np.arange(count))
        np.testing.assert_array_equal(FirstFrames(Path(folder))["task"].frames, shown)


def test_similar_frames_pack_small(tmp_path: Path) -> None:
    path = write_first_frames(tmp_path, "task", frames(200), np.arange(200))
    assert path.stat().st_size < frames(200).nbytes / 20


def test_bad_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="uint8"):
        write_first_frames(tmp_path, "task", frames(2) / 255, np.arange(2))
    with pytest.raises(DataError, match="as many seeds"):
        write_first_frames(tmp_path, "task", frames(2), np.arange(3))
    assert not list(tmp_path.iterdir())


def test_damaged_file_raises_with_its_name(tmp_path: Path) -> None:
    path = write_first_frames(tmp_path, "task", frames(2), np.arange(2))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CheckpointError, match=r"task\.npz: not a readable file of first frames.*worldgym starts"):
        FirstFrames(tmp_path)
