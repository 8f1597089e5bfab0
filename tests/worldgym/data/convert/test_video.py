from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

from worldgym.data.convert.video import open_source, video_frames
from worldgym.data.recordings import Recordings
from worldgym.errors import ConfigError
from worldgym.reports.video import write_gif, write_mp4

CODEC_ERROR = 4  # of a flat colour, by H.264 and by a GIF's palette


def test_videos_become_episodes_without_actions(tmp_path: Path, make_clip: Callable[..., Any], conversion: Any) -> None:
    clips = {"walks/a.mp4": make_clip(7), "walks/b.gif": make_clip(5, seed=1), "c.mp4": make_clip(4, seed=2)}
    for name, clip in clips.items():
        (write_gif if name.endswith("gif") else write_mp4)(tmp_path / "clips" / name, clip)
    assert conversion.run("video", tmp_path / "clips").written == 3
    recordings = Recordings(tmp_path / "out")
    assert recordings.action_dim == 0
    assert recordings.tasks == ("clips", "walks")
    assert recordings.segment(0, -1, 4).actions.shape == (3, 0)
    for episode in recordings.episodes:
        clip = clips[episode.path.relative_to(tmp_path / "out").with_suffix("").as_posix()]
        conversion.check_frames(episode, clip, CODEC_ERROR)
        assert not episode.rewards.any()


def test_frames_are_skipped(tmp_path: Path, make_clip: Callable[..., Any], conversion: Any) -> None:
    clip = make_clip(8)
    write_mp4(tmp_path / "a.mp4", clip)
    conversion.run("video", tmp_path / "a.mp4", frame_skip=3)
    (episode,) = conversion.episodes
    conversion.check_frames(episode, clip[::3], CODEC_ERROR)
    assert episode.info.frame_skip == 3


def test_bad_videos_are_named_and_left_out(tmp_path: Path, make_clip: Callable[..., Any], conversion: Any) -> None:
    folder = tmp_path / "clips"
    write_mp4(folder / "good.mp4", make_clip(5))
    write_mp4(folder / "one-frame.mp4", make_clip(1))
    write_gif(folder / "still.gif", make_clip(1))
    (folder / "cut.mp4").write_bytes((folder / "good.mp4").read_bytes()[:700])
    (folder / "cut.gif").write_bytes((folder / "still.gif").read_bytes()[:20])
    (folder / "empty.mp4").touch()
    (folder / "text.GIF").write_text("no picture")
    outcome = conversion.run("video", folder)
    unreadable = dict.fromkeys(("cut.mp4", "empty.mp4"), "ffmpeg cannot decode it")
    unreadable |= dict.fromkeys(("cut.gif", "text.GIF"), "not readable (UnidentifiedImageError")
    short = dict.fromkeys(("one-frame.mp4", "still.gif"), "expected at least 2 frames, got 1")
    conversion.check_left_out(outcome, unreadable | short)
    assert len(conversion.episodes) == outcome.written == 1


def test_a_gray_gif(tmp_path: Path, conversion: Any) -> None:
    gray = np.stack([np.full((16, 16), value, np.uint8) for value in (10, 120, 250)])
    iio.imwrite(tmp_path / "gray.gif", gray)
    conversion.run("video", tmp_path / "gray.gif")
    (episode,) = conversion.episodes
    np.testing.assert_array_equal(episode.frames(), np.repeat(gray[..., None], 3, axis=3))


def test_frames_from_the_middle_of_a_video(tmp_path: Path, make_clip: Callable[..., Any]) -> None:
    clip, path = make_clip(30), tmp_path / "long.mp4"
    write_mp4(path, clip, fps=30)
    for first, count in ((0, 4), (1, 5), (11, 7), (25, 5)):
        frames = np.stack(list(video_frames(path, start=max(0.0, (first - 0.25) / 30), count=count)))
        assert np.abs(frames.astype(int) - clip[first : first + count]).max() <= CODEC_ERROR


def test_a_video_has_one_camera(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="videos have one camera"):
        open_source(tmp_path, "front")
