import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest

from worldgym.data.convert.formats import open_source
from worldgym.errors import ConfigError, DataError
from worldgym.reports.video import write_mp4

CODEC_ERROR = 8  # of a flat colour, by VP9
ROWS = [
    {"id": "74225", "label": "spinning a cube", "template": "Spinning [something]", "placeholders": ["a cube"]},
    {"id": "9", "label": "holding a pen"},
]


def write_webm(path: Path, clip: Any) -> None:
    write_mp4(path.with_suffix(".mp4"), clip)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path.with_suffix(".mp4"), "-c:v", "libvpx-vp9"]
    subprocess.run([*command, "-deadline", "realtime", path], check=True)
    path.with_suffix(".mp4").unlink()


@pytest.fixture
def dataset(tmp_path: Path, make_clip: Callable[..., Any]) -> Path:
    """The layout of the release: labels in one folder, videos in another one beside it."""
    videos, labels = tmp_path / "sthsth" / "20bn-something-something-v2", tmp_path / "sthsth" / "labels"
    videos.mkdir(parents=True)
    labels.mkdir()
    write_webm(videos / "74225.webm", make_clip(5))
    write_mp4(videos / "9.mp4", make_clip(4, seed=1))
    write_mp4(videos / "100.mp4", make_clip(4, seed=2))  # in another list
    (labels / "train.json").write_text(json.dumps(ROWS))
    (labels / "labels.json").write_text(json.dumps({"Spinning something": "0"}))
    return tmp_path / "sthsth"


@pytest.mark.parametrize("src", ["", "labels/train.json"])
def test_the_clips_of_a_list(src: str, dataset: Path, make_clip: Callable[..., Any], conversion: Any) -> None:
    assert conversion.run("something-something", dataset / src).written == 2
    first, second = conversion.episodes
    conversion.check_frames(first, make_clip(5), CODEC_ERROR)
    conversion.check_frames(second, make_clip(4, seed=1), CODEC_ERROR)
    assert (first.info.task, second.info.task) == ("spinning a cube", "holding a pen")
    assert first.actions.shape == (4, 0)


def test_the_folder_of_the_videos_is_one_of_videos(dataset: Path, conversion: Any) -> None:
    assert conversion.run("video", dataset / "20bn-something-something-v2").written == 3


def test_frames_are_skipped(dataset: Path, make_clip: Callable[..., Any], conversion: Any) -> None:
    conversion.run("something-something", dataset, frame_skip=2)
    conversion.check_frames(conversion.episodes[0], make_clip(5)[::2], CODEC_ERROR)


def test_bad_members_are_named_and_left_out(dataset: Path, conversion: Any) -> None:
    videos = dataset / "20bn-something-something-v2"
    (videos / "11.webm").write_bytes((videos / "74225.webm").read_bytes()[:200])
    rows = [*ROWS, {"id": 10, "label": "nothing"}, {"id": "11", "label": "cut"}, {"id": "100"}]
    (dataset / "labels" / "train.json").write_text(json.dumps(rows))
    reasons = {"10": "expected a video 10.webm or 10.mp4", "11": "ffmpeg cannot decode it"}
    conversion.check_left_out(conversion.run("something-something", dataset), reasons)
    assert {episode.info.task for episode in conversion.episodes} == {"spinning a cube", "holding a pen", "unknown"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"id": "9", "label": "cut"', "expected a list of objects with id and label"),
        ('[{"id": "9"}, 3]', "expected a list of objects with id and label"),
        ('[{"id": "../9"}]', r"expected ids of letters and digits, got '\.\./9'"),
        ("[]", r"expected a list of clips, .* in a JSON file, got none"),
    ],
)
def test_lists_that_are_damaged(content: str, message: str, dataset: Path) -> None:
    (dataset / "labels" / "train.json").write_text(content)
    with pytest.raises(DataError, match=message):
        open_source("something-something", dataset)


def test_what_cannot_be_opened(dataset: Path) -> None:
    with pytest.raises(ConfigError, match="videos have one camera"):
        open_source("something-something", dataset, "front")
    (dataset / "labels" / "validation.json").write_text(json.dumps(ROWS[:1]))
    with pytest.raises(ConfigError, match=r"several lists; choose one of them: .*train\.json, .*validation\.json"):
        open_source("something-something", dataset)
    for video in (dataset / "20bn-something-something-v2").iterdir():
        video.unlink()
    with pytest.raises(DataError, match="expected videos"):
        open_source("something-something", dataset / "labels" / "train.json")
