import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from worldgym.config import WorldModelConfig
from worldgym.data.clips import Clip, Cut, read_clip
from worldgym.data.episode import Episode
from worldgym.errors import ConfigError, DataError
from worldgym.reports.video import write_gif, write_mp4

MakeEpisode = Callable[..., Episode]


@pytest.fixture
def action_free(tiny_config: WorldModelConfig) -> WorldModelConfig:
    return dataclasses.replace(tiny_config, action_dim=0, reward=False)


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """An npz file whose frames, 48 x 96 pixels, are as bright as their numbers, and its actions likewise."""
    frames = np.broadcast_to(np.arange(12)[:, None, None, None], (12, 48, 96, 3))
    path = tmp_path / "numbered.npz"
    np.savez(path, rgb=frames.astype(np.int64), action=np.repeat(np.arange(12.0)[:, None], 4, axis=1))
    return path


def numbers(clip: Clip) -> tuple[list[int], list[int]]:
    return clip.context[:, 0, 0, 0].tolist(), clip.future[:, 0, 0, 0].tolist()


def test_an_episode_is_cut_into_context_and_future(
    make_episode: MakeEpisode, tiny_config: WorldModelConfig, tmp_path: Path
) -> None:
    episode = make_episode("hammer", "expert", 0)
    episode.save(tmp_path / "episode.safetensors")
    clip = read_clip(tmp_path / "episode.safetensors", Cut(start=3, horizon=4), tiny_config)
    np.testing.assert_array_equal(clip.context, episode.frames[3:5])
    np.testing.assert_array_equal(clip.future, episode.frames[5:9])
    assert clip.actions is not None
    assert clip.rewards is not None
    np.testing.assert_array_equal(clip.actions, episode.actions[4:8])  # the first leads from the context to the future
    np.testing.assert_array_equal(clip.rewards, episode.rewards[4:8])
    assert clip.size == (64, 64)


def test_an_episode_of_a_folder(synthetic_recordings: Path, tiny_config: WorldModelConfig) -> None:
    first, second = (read_clip(synthetic_recordings, Cut(episode=index), tiny_config) for index in (0, 1))
    assert len(first.future) == 11  # all that were recorded
    assert (first.future != second.future).any()
    with pytest.raises(DataError, match="expected an episode from 0 to 11, got 12"):
        read_clip(synthetic_recordings, Cut(episode=12), tiny_config)


def test_frames_apart_of_pictures_under_any_name(numbered: Path, action_free: WorldModelConfig) -> None:
    clip = read_clip(numbered, Cut(start=1, step_size=3, image_key="rgb"), action_free)
    assert numbers(clip) == ([1, 4], [7, 10])
    assert clip.actions is None
    assert clip.size == (48, 96)
    assert clip.future.shape == (2, 64, 64, 3)


def test_a_goal_is_the_frame_after_the_last_and_comes_first(numbered: Path, tiny_config: WorldModelConfig) -> None:
    goal = dataclasses.replace(tiny_config, goal_conditioned=True)
    clip = read_clip(numbered, Cut(start=1, horizon=3, image_key="rgb"), goal)
    assert numbers(clip) == ([5, 1], [2, 3, 4])
    assert clip.actions is not None
    assert clip.actions[:, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("suffix", "write"), [(".mp4", write_mp4), (".gif", write_gif)])
def test_videos(suffix: str, write: Callable[..., None], action_free: WorldModelConfig, tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(20, 236, (20, 1, 1, 3)).astype(np.uint8)
    write(tmp_path / f"clip{suffix}", np.broadcast_to(colours, (20, 64, 64, 3)))
    clip = read_clip(tmp_path / f"clip{suffix}", Cut(image_key="image"), action_free)  # a video has no cameras
    assert (len(clip.context), len(clip.future)) == (2, 14)
    assert np.abs(clip.future[0, 0, 0].astype(int) - colours[2, 0, 0]).max() < 12
    assert clip.rewards is None


def test_what_does_not_fit_is_named(
    numbered: Path, tiny_config: WorldModelConfig, action_free: WorldModelConfig, tmp_path: Path
) -> None:
    np.savez(tmp_path / "free.npz", image=np.zeros((5, 64, 64, 3), np.uint8))
    (tmp_path / "damaged.npz").write_bytes(b"PK")
    (tmp_path / "notes.txt").write_text("none")
    camera = {"image_key": "rgb"}
    for path, cut, config, message in (
        (numbered, Cut(horizon=11, **camera), action_free, r"at least 13 frames .*\(2 of context and 11 .* got 12"),
        (numbered, Cut(start=9, step_size=3, **camera), action_free, "at least 3 frames from frame 9 on, 3 apart"),
        (tmp_path / "free.npz", Cut(), tiny_config, "expected actions of length 4, which this model takes, found none"),
        (numbered, Cut(**camera), dataclasses.replace(tiny_config, action_dim=3), r"length 3, .*got shape \[11, 4\]"),
        (tmp_path / "damaged.npz", Cut(), action_free, "not a readable npz episode"),
        (tmp_path / "notes.txt", Cut(), action_free, "expected a recording"),
        (tmp_path / "nothing", Cut(), action_free, "found nothing; check the path"),
    ):
        with pytest.raises(DataError, match=message):
            read_clip(path, cut, config)
    with pytest.raises(ConfigError, match=r"step_size: expected 1 for a model that takes actions.*got 2"):
        read_clip(numbered, Cut(step_size=2, **camera), tiny_config)
