from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from worldgym import WorldModel
from worldgym.errors import DataError
from worldgym.reports.demo import (
    PLOT_HEIGHT,
    TITLE_HEIGHT,
    ImaginedClips,
    RecordedClip,
    demo_video,
    imagine_clips,
    truncate_to_shortest,
    write_demo,
)


def make_clip(title: str, steps: int = 6, seed: int = 0) -> RecordedClip:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 255, (2 + steps, 64, 64, 3), np.uint8)
    actions, rewards = rng.uniform(-1, 1, (steps, 4)), rng.standard_normal(steps)
    return RecordedClip(title, frames[:2], frames[2:], actions.astype(np.float32), rewards.astype(np.float32))


def perfect(clips: list[RecordedClip]) -> ImaginedClips:
    """Imagination without errors."""
    return ImaginedClips(np.stack([clip.frames for clip in clips]), np.stack([clip.rewards for clip in clips]), 1.0)


def test_clips_are_truncated_to_one_length() -> None:
    short = truncate_to_shortest([make_clip("a", 6), make_clip("b", 4)], steps=5)
    assert [len(clip.frames) for clip in short] == [4, 4]
    assert [len(clip.rewards) for clip in truncate_to_shortest([make_clip("a", 6)], steps=5)] == [5]


@pytest.mark.parametrize(
    ("clips", "steps"), [([], 5), ([make_clip("a")], 0), ([make_clip("a", 0)], 5), ([make_clip("a")], -1)]
)
def test_nothing_to_show_is_an_error(clips: list[RecordedClip], steps: int) -> None:
    with pytest.raises(DataError, match="expected clips of at least 1 step"):
        truncate_to_shortest(clips, steps)


def test_the_arrays_of_a_clip_are_checked() -> None:
    clip = make_clip("push")
    column = RecordedClip("push", clip.context, clip.frames, clip.actions, clip.rewards[:, None])
    np.testing.assert_array_equal(column.rewards, clip.rewards, strict=True)
    with pytest.raises(DataError, match=r"clip 'push': expected rewards float32 \[6\], got float32 \[5\]"):
        RecordedClip("push", clip.context, clip.frames, clip.actions, clip.rewards[:5])


def test_clips_are_imagined_under_their_recorded_actions(tiny_checkpoint: Path) -> None:
    model = WorldModel.from_pretrained(tiny_checkpoint, device="cpu")
    clips = [make_clip("a"), make_clip("b", seed=1)]
    imagined, again = imagine_clips(model, clips), imagine_clips(model, clips)
    assert imagined.frames.shape == (2, 6, 64, 64, 3)
    assert imagined.rewards.shape == (2, 6)
    assert imagined.steps_per_second > 0
    np.testing.assert_array_equal(imagined.frames, again.frames)
    other = imagine_clips(model, [clips[0], make_clip("c", seed=2)])
    assert not np.array_equal(imagined.rewards[1], other.rewards[1])


@pytest.mark.parametrize("count", [1, 3, 4])
def test_the_video_shows_every_clip(count: int) -> None:
    clips = [make_clip(f"task-{index}", seed=index) for index in range(count)]
    video = demo_video(clips, perfect(clips), factor=1)
    rows, columns = -(-count // 2), min(2, count)
    assert len(video) == 6
    assert video.shape[1] >= rows * 64
    assert video.shape[2] >= columns * 3 * 64
    for index, clip in enumerate(clips):
        row, column = divmod(index, 2)
        panels = video[:, : video.shape[1] - PLOT_HEIGHT].reshape(6, -1, video.shape[2], 3)
        left, top = column * (3 * 64 + 2 + 10), TITLE_HEIGHT + row * (64 + TITLE_HEIGHT + 4)
        np.testing.assert_array_equal(panels[:, top : top + 64, left : left + 64], clip.frames)
    changed = np.abs(video[0].astype(int) - video[-1]).max(axis=(1, 2)) > 100
    assert changed[-PLOT_HEIGHT:].any()


def test_all_files_are_written(tmp_path: Path) -> None:
    clips = [make_clip("a $ b"), make_clip("b", seed=1)]
    files = write_demo(clips, perfect(clips), tmp_path / "new")
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["demo.gif", "demo.mp4", "rewards.png", "sheet.png"]
    assert all(path.stat().st_size > 1000 for path in files)
    assert iio.imread(files.sheet).shape[0] >= 2 * 128
