import subprocess
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import pytest

from worldgym.reports.video import Frames, below, beside, compared, difference, enlarge, write_gif, write_mp4, write_png

RED, BLUE = (250, 0, 0), (0, 0, 250)


def plain(colour: tuple[int, int, int], length: int = 3, height: int = 17, width: int = 21) -> Frames:
    return np.broadcast_to(np.array(colour, np.uint8), (length, height, width, 3)).copy()


def decoded(path: Path, height: int, width: int) -> Frames:
    """The frames of a video, by ffmpeg itself: imageio leaves pipes open when it reads."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    clip: Frames = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    return clip


def test_clips_side_by_side_have_white_space_between_them() -> None:
    both = beside(plain(RED), plain(BLUE), gap=2)
    assert both.shape == (3, 17, 44, 3)
    assert both[0, 5, [20, 21, 22, 23]].tolist() == [list(RED), [255] * 3, [255] * 3, list(BLUE)]


def test_clips_below_each_other_have_white_space_between_them() -> None:
    both = below(plain(RED), plain(BLUE), gap=1)
    assert both.shape == (3, 35, 21, 3)
    assert both[0, [16, 17, 18], 5].tolist() == [list(RED), [255] * 3, list(BLUE)]


def test_enlarging_repeats_pixels() -> None:
    clip = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    large = enlarge(clip, 3)
    assert large.shape == (1, 6, 6, 3)
    np.testing.assert_array_equal(large[:, ::3, ::3], clip)
    np.testing.assert_array_equal(large[:, 2::3, 2::3], clip)


def test_a_gif_shows_what_was_written(tmp_path: Path) -> None:
    clip = np.concatenate([plain(RED, 1), plain(BLUE, 1)])
    write_gif(tmp_path / "clip.gif", clip)
    assert np.abs(iio.imread(tmp_path / "clip.gif").astype(int) - clip).max() <= 8


def test_an_mp4_of_odd_size_is_padded_to_even(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", plain(RED))
    read = decoded(tmp_path / "clip.mp4", height=18, width=22)
    assert len(read) == 3
    assert np.abs(read[:, :16, :20].astype(int) - RED).max() <= 20


def test_a_png_holds_the_exact_picture(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    write_png(tmp_path / "picture.png", picture)
    np.testing.assert_array_equal(iio.imread(tmp_path / "picture.png"), picture)


@pytest.mark.parametrize("write", [write_gif, write_mp4])
def test_a_failed_write_leaves_nothing(
    tmp_path: Path, write: Callable[[Path, Frames], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("worldgym.reports.video.iio.imwrite", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "clip", plain(RED))
    assert list(tmp_path.iterdir()) == []


def test_differences_do_not_wrap_around() -> None:
    low, high, highest = (np.full((1, 2, 2, 3), value, np.uint8) for value in (0, 100, 200))
    assert (difference(low, high) == 200).all()
    assert (difference(high, low) == 200).all()
    assert (difference(low, highest) == 255).all()


def test_compared_clips_are_shown_with_their_difference() -> None:
    real, predicted = plain(RED), plain(BLUE)
    shown = compared(real, predicted, gap=1)
    np.testing.assert_array_equal(shown, beside(real, predicted, difference(real, predicted), gap=1))
