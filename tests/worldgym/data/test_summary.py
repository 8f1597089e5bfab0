from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from worldgym.data.episode import Episode
from worldgym.data.recordings import Recordings
from worldgym.data.summary import check_held_out, summarise
from worldgym.errors import DataError


def test_a_summary_counts(synthetic_recordings: Path) -> None:
    summary = summarise(Recordings(synthetic_recordings))
    assert summary["episodes"] == {task: {"expert": 3, "random": 3} for task in ("hammer", "plate-slide")}
    assert summary["seeds"] == {"expert": [0, 2], "random": [0, 2]}
    assert summary["steps"] == 12 * 12
    assert (summary["environment"], summary["look"], summary["frame_skip"]) == ("Synthetic", "fast", 1)


def test_mixed_looks_are_refused(make_episode: Callable[..., Episode], tmp_path: Path) -> None:
    episode = make_episode("hammer", "expert", 0)
    episode.save(tmp_path / "a.safetensors")
    replace(episode, info=replace(episode.info, look="reference")).save(tmp_path / "b.safetensors")
    with pytest.raises(DataError, match=r"look \['fast', 'reference'\]"):
        summarise(Recordings(tmp_path))


def test_episodes_that_training_used_are_not_held_out(
    synthetic_recordings: Path, make_episode: Callable[..., Episode], tmp_path: Path
) -> None:
    trained = summarise(Recordings(synthetic_recordings))
    make_episode("hammer", "expert", 1000).save(tmp_path / "a.safetensors")
    make_episode("hammer", "noisy", 1).save(tmp_path / "b.safetensors")
    check_held_out(trained, Recordings(tmp_path))
    make_episode("hammer", "expert", 2).save(tmp_path / "c.safetensors")
    with pytest.raises(DataError, match=r"c\.safetensors is not held out.*seeds 0 to 2"):
        check_held_out(trained, Recordings(tmp_path))
