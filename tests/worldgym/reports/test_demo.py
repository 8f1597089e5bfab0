from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from worldgym import WorldModel
from worldgym.errors import DataError
from worldgym.reports.demo import PLOT_HEIGHT, TITLE_HEIGHT, Dream, Scene, _video, alike, imagine, write


def scene(title: str, steps: int = 6, seed: int = 0) -> Scene:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 255, (2 + steps, 64, 64, 3), np.uint8)
    actions, rewards = rng.uniform(-1, 1, (steps, 4)), rng.standard_normal(steps)
    return Scene(title, frames[:2], frames[2:], actions.astype(np.float32), rewards.astype(np.float32))


def test_scenes_are_cut_to_one_length() -> None:
    cut = alike([scene("a", 6), scene("b", 4)], steps=5)
    assert [len(each.frames) for each in cut] == [4, 4]
    assert [len(each.rewards) for each in alike([scene("a", 6)], steps=5)] == [5]


@pytest.mark.parametrize(("scenes", "steps"), [([], 5), ([scene("a")], 0), ([scene("a", 0)], 5)])
def test_nothing_to_show_is_an_error(scenes: list[Scene], steps: int) -> None:
    with pytest.raises(DataError):
        alike(scenes, steps)


def test_imagination_follows_the_real_actions(tiny_checkpoint: Path) -> None:
    model = WorldModel.from_pretrained(tiny_checkpoint, device="cpu")
    scenes = [scene("a"), scene("b", seed=1)]
    dream, again = imagine(model, scenes), imagine(model, scenes)
    assert dream.frames.shape == (2, 6, 64, 64, 3)
    assert dream.rewards.shape == (2, 6)
    assert dream.steps_per_second > 0
    np.testing.assert_array_equal(dream.frames, again.frames)
    other = imagine(model, [scenes[0], scene("c", seed=2)])
    assert not np.array_equal(dream.rewards[1], other.rewards[1])


def dream_of(scenes: list[Scene]) -> Dream:
    """A dream that is true."""
    return Dream(np.stack([each.frames for each in scenes]), np.stack([each.rewards for each in scenes]), 1.0)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_the_video_shows_every_scene(count: int) -> None:
    scenes = [scene(f"task-{index}", seed=index) for index in range(count)]
    video = _video(scenes, dream_of(scenes), factor=1)
    rows, columns = -(-count // 2), min(2, count)
    assert len(video) == 6
    assert video.shape[1] >= rows * 64
    assert video.shape[2] >= columns * 3 * 64
    for index, each in enumerate(scenes):
        row, column = divmod(index, 2)
        panel = video[:, : video.shape[1] - PLOT_HEIGHT].reshape(6, -1, video.shape[2], 3)
        left, top = column * (3 * 64 + 2 + 10), TITLE_HEIGHT + row * (64 + TITLE_HEIGHT + 4)
        np.testing.assert_array_equal(panel[:, top : top + 64, left : left + 64], each.frames)
    cursor = np.abs(video[0].astype(int) - video[-1]).max(axis=(1, 2)) > 100
    assert cursor[-PLOT_HEIGHT:].any()


def test_everything_is_written(tmp_path: Path) -> None:
    scenes = [scene("a"), scene("b", seed=1)]
    files = write(scenes, dream_of(scenes), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.gif", "demo.mp4", "rewards.png", "sheet.png"]
    assert all(path.stat().st_size > 1000 for path in files)
    assert iio.imread(files.sheet).shape[0] >= 2 * 128
