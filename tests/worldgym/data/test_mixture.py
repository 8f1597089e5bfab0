import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldgym.data.episode import Episode
from worldgym.data.mixture import Mixture, open_recordings, with_action_dim
from worldgym.data.recordings import Recordings, check_batch, fixed_segments, sample_segments
from worldgym.data.summary import check_held_out, summarise
from worldgym.errors import ConfigError, DataError

MakeEpisode = Callable[..., Episode]


@pytest.fixture
def write_mixture(tmp_path: Path) -> Callable[..., Path]:
    """Write a mixture's file beside the folders that it names."""

    def write(**parts: Any) -> Path:
        path = tmp_path / "mixture.json"
        path.write_text(json.dumps(parts))
        return path

    return write


@pytest.fixture
def folders(make_episode: MakeEpisode, tmp_path: Path) -> Path:
    """``arm`` has 4 actions, ``hand`` 2, ``clips`` none; two episodes of 12 steps each, of three environments."""
    for name, length in (("arm", 4), ("hand", 2), ("clips", 0)):
        for seed in range(2):
            episode = make_episode(name, "expert", seed)
            info = replace(episode.info, environment=f"real:{name}", terminated=True)
            replace(episode, actions=episode.actions[:, :length], info=info).save(
                tmp_path / name / f"{seed}.safetensors"
            )
    return tmp_path


def test_entries_are_sampled_by_weight(folders: Path, write_mixture: Callable[..., Path]) -> None:
    part = {"action_dim": 4}
    mixture = Mixture(
        write_mixture(
            arm={"folders": ["arm"], "weight": 3, **part},
            rest={"folders": ["hand"], "weight": 0.5, **part},
            clips={"folders": [str(folders / "clips")], "weight": 0.5, **part},
        )
    )
    rng = np.random.default_rng(0)
    counts = Counter(mixture.episodes[mixture.draw(rng)].path.parent.name for _ in range(4000))
    assert abs(counts["arm"] / 4000 - 0.75) < 0.03
    assert abs(counts["hand"] / 4000 - 0.125) < 0.03
    draws = [mixture.draw(np.random.default_rng([7, step])) for step in range(50)]
    assert draws == [mixture.draw(np.random.default_rng([7, step])) for step in range(50)]
    assert set(draws) == set(range(6))
    check_batch(mixture.sample(np.random.default_rng(0), 8, 5))


def test_actions_are_filled_up_or_left_out(folders: Path, write_mixture: Callable[..., Path]) -> None:
    filled = Mixture(write_mixture(arm={"folders": ["arm"]}, hand={"folders": ["hand"], "action_dim": 4}))
    hand = Recordings(folders / "hand")
    np.testing.assert_array_equal(filled.segment(2, 3, 5).actions[:, :2], hand.segment(0, 3, 5).actions)
    assert not filled.segment(2, 3, 5).actions[:, 2:].any()
    without = Mixture(write_mixture(arm={"folders": ["arm"], "action_dim": 0}, clips={"folders": ["clips"]}))
    assert without.action_dim == 0
    np.testing.assert_array_equal(without.segment(1, 2, 4).frames, Recordings(folders / "arm").segment(1, 2, 4).frames)


@pytest.mark.parametrize("step", [3, 5])
def test_frames_between_steps_are_left_out(step: int, folders: Path, write_mixture: Callable[..., Path]) -> None:
    mixture = Mixture(
        write_mixture(arm={"folders": ["arm"], "step": step, "action_dim": 0}, clips={"folders": ["clips"]})
    )
    view, whole = mixture.episodes[0], Recordings(folders / "arm").episodes[0].load()
    kept = np.arange(0, 13, step)
    steps = len(kept) - 1
    assert view.shape == (steps + 1, 64, 64, 3)
    loaded = view.load()
    np.testing.assert_array_equal(loaded.frames, whole.frames[kept])
    sums = [whole.rewards[start : start + step].sum() for start in kept[:-1]]
    np.testing.assert_allclose(loaded.rewards, sums, rtol=1e-6)
    solved = [whole.successes[start : start + step].any() for start in kept[:-1]]
    np.testing.assert_array_equal(loaded.successes, solved)
    assert (loaded.info.frame_skip, loaded.info.terminated) == (
        step,
        step == 3,
    )  # the 12th step is behind the end of 5 + 5
    segment = mixture.segment(0, -1, 3)
    np.testing.assert_array_equal(segment.frames, whole.frames[[0, 0, step]])
    np.testing.assert_array_equal(view.frames(1), whole.frames[kept[1:]])
    assert fixed_segments(mixture, 2, (1,)).batch.frames.shape[0] == 4
    assert len(sample_segments(mixture, 2, count=1, steps=12).tasks) == 4


def test_the_summary_names_the_parts_and_recorded_episodes(folders: Path, write_mixture: Callable[..., Path]) -> None:
    path = write_mixture(
        arm={"folders": ["arm"], "step": 2, "action_dim": 0}, clips={"folders": ["clips"], "weight": 2}
    )
    summary = summarise(Mixture(path))
    assert (summary["environment"], summary["look"], summary["frame_skip"]) == ("mixture", "fast", 1)
    assert summary["mixture"] == {
        "arm": {"weight": 1.0, "step": 2, "action_dim": 0, "episodes": 2},
        "clips": {"weight": 2.0, "step": 1, "action_dim": 0, "episodes": 2},
    }
    assert json.loads(json.dumps(summary)) == summary
    for held_out in (Recordings(folders / "arm"), Mixture(path)):
        with pytest.raises(DataError, match="got a copy of one that was"):
            check_held_out(summary, held_out)
    check_held_out(summary, Recordings(folders / "hand"))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"a": {"folders": ["arm"], "weight": 0}}, "a: weight: expected a number above 0, got 0"),
        ({"a": {"folders": ["arm"], "weight": -1}}, "a: weight: expected a number above 0, got -1"),
        ({"a": {"folders": ["arm"], "weight": float("nan")}}, "a: weight: expected a number above 0, got nan"),
        ({"a": {"folders": ["arm"], "weight": float("inf")}}, "a: weight: expected a number above 0, got inf"),
        ({}, "weights have a finite sum above 0, got the sum 0"),
        (
            {name: {"folders": ["arm"], "weight": 1.7e308} for name in "ab"},
            "weights have a finite sum above 0, got the sum inf",
        ),
        ({"a": {"folders": ["arm"], "step": 0}}, "a: step: expected a number above 0, got 0"),
        ({"a": {"folders": ["arm"], "step": 1.5}}, "a: entry: step"),
        ({"a": {"folders": ["arm"], "action_dim": -1}}, "a: action_dim: expected a number of at least 0"),
        ({"a": {"folders": []}}, "a: folders: expected at least one folder"),
        ({"a": {"folder": ["arm"]}}, "a: entry: entry 'folders' is missing"),
        ({"a": ["arm"]}, r"a: expected an object such as .* got \['arm'\]"),
        ({"a": {"folders": ["arm"], "action_dim": 3}}, "a: expected an action_dim of at least 4"),
        ({"a": {"folders": ["arm"], "step": 2}}, "a: expected a step of 1, because it has actions"),
        (
            {"a": {"folders": ["arm"]}, "b": {"folders": ["hand"]}},
            "expected actions of length 4 in b, as in a, got actions of length 2; an equal action_dim",
        ),
        (
            {"a": {"folders": ["arm"]}, "b": {"folders": ["small"]}},
            "expected frames 64x64 in b, as in a, got frames 32x32; .* --resolution",
        ),
        ({"a": {"folders": ["arm"]}, "b": {"folders": ["turning"]}}, "expected the action space of vectors .* in b"),
    ],
)
def test_mixtures_that_are_refused(
    parts: dict[str, Any], message: str, folders: Path, make_episode: MakeEpisode, write_mixture: Callable[..., Path]
) -> None:
    episode = make_episode("arm", "expert", 5)
    replace(episode, frames=episode.frames[:, ::2, ::2]).save(folders / "small" / "0.safetensors")
    turning = replace(episode.info, action_space={"kind": "Discrete", "n": 4, "start": 0})
    replace(episode, info=turning).save(folders / "turning" / "0.safetensors")
    with pytest.raises(ConfigError, match=rf"(?s)mixture\.json: .*{message}"):
        Mixture(write_mixture(**parts))


def test_files_that_cannot_be_opened(folders: Path, write_mixture: Callable[..., Path]) -> None:
    path = write_mixture(arm={"folders": ["arm"]})
    assert open_recordings(path).folder == path
    assert not open_recordings(folders / "arm", folders / "arm").mixture
    with pytest.raises(ConfigError, match="expected a mixture by itself, got 2 paths"):
        open_recordings(folders / "arm", path)
    with pytest.raises(ConfigError, match="is missing"):
        open_recordings(folders / "none.json")
    with pytest.raises(DataError, match="expected episodes"):
        open_recordings(write_mixture(arm={"folders": ["none"]}))


def test_recordings_get_longer_actions_or_none(folders: Path, write_mixture: Callable[..., Path]) -> None:
    hand = Recordings(folders / "hand")
    assert with_action_dim(hand, 2) is hand
    longer, without = with_action_dim(hand, 3), with_action_dim(hand, 0)
    assert (hand.action_dim, longer.action_dim, without.action_dim) == (2, 3, 0)
    np.testing.assert_array_equal(longer.episodes[1].actions[:, :2], hand.episodes[1].actions)
    assert not longer.episodes[1].actions[:, 2].any()
    assert summarise(without)["digests"] == summarise(hand)["digests"]
    with pytest.raises(ConfigError, match=r"hand: expected an action_dim of at least 2.*got 1"):
        with_action_dim(hand, 1)
    mixture = Mixture(write_mixture(arm={"folders": ["arm"], "weight": 3}, more={"folders": ["arm"], "action_dim": 4}))
    free = with_action_dim(mixture, 0)
    assert isinstance(free, Mixture)
    assert {part["action_dim"] for part in free.mixture.values()} == {0}
    assert [part["action_dim"] for part in mixture.mixture.values()] == [4, 4]
    assert summarise(free)["digests"] == summarise(mixture)["digests"]
    rng, other = (np.random.default_rng(0) for _ in range(2))
    assert [free.draw(rng) for _ in range(9)] == [mixture.draw(other) for _ in range(9)]
