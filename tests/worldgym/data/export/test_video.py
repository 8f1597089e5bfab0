from pathlib import Path

import numpy as np
import pytest

from worldgym.data.convert.video import video_frames
from worldgym.data.export.video import open_video
from worldgym.errors import StorageError

CODEC_ERROR = 4  # of a flat colour


def clip(count: int, height: int = 16, width: int = 16) -> np.ndarray:
    colours = np.random.default_rng(0).integers(20, 236, (count, 1, 1, 3))
    return np.broadcast_to(colours, (count, height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("size", [(16, 16), (17, 33)])
@pytest.mark.parametrize("fps", [3, 30])
def test_any_frame_is_found(size: tuple[int, int], fps: int, tmp_path: Path) -> None:
    frames = clip(9, *size)
    with open_video(tmp_path / "a.mp4", *size, fps) as append:
        append(frames[:2])
        append(frames[2:])
    for start in (0, 5, 8):
        found = np.stack(list(video_frames(tmp_path / "a.mp4", max(0, start - 0.25) / fps)))
        assert found.shape == frames[start:].shape
        assert np.abs(found.astype(int) - frames[start:]).max() <= CODEC_ERROR


@pytest.mark.parametrize("count", [1, 4000])  # few frames wait in the pipe, many break it
def test_ffmpeg_says_why_it_cannot_write(count: int, tmp_path: Path) -> None:
    frames = clip(count)
    with (
        pytest.raises(StorageError, match=r"could not write .*a\.mp4: ffmpeg says '.*No such file.*GB are free"),
        open_video(tmp_path / "none" / "a.mp4", 16, 16, 10) as append,
    ):
        append(frames)


def test_an_error_ends_ffmpeg(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_video(tmp_path / "a.mp4", 16, 16, 10):
        raise KeyboardInterrupt
