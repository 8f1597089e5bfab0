import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import worldgym.checkpoints
from worldgym.data.episode import Episode
from worldgym.data.recordings import Recordings
from worldgym.data.summary import (
    _from_ranges,
    _to_ranges,
    behaviours,
    check_held_out,
    episode_digest,
    first_seed,
    summarise,
)
from worldgym.errors import ConfigError, DataError

MakeEpisode = Callable[..., Episode]


def record(folder: Path, episodes: Iterable[Episode]) -> Recordings:
    for index, episode in enumerate(episodes):
        episode.save(folder / f"{index:03d}.safetensors")
    return Recordings(folder)


def with_seed(episode: Episode, seed: int) -> Episode:
    return replace(episode, info=replace(episode.info, seed=seed))


def test_a_summary_counts_episodes_and_lists_seeds(synthetic_recordings: Path) -> None:
    summary = summarise(Recordings(synthetic_recordings))
    assert summary["episodes"] == {task: {"expert": 3, "random": 3} for task in ("hammer", "plate-slide")}
    assert summary["seeds"] == {task: {"expert": "0-2", "random": "0-2"} for task in ("hammer", "plate-slide")}
    assert summary["steps"] == 12 * 12
    assert (summary["environment"], summary["look"], summary["frame_skip"]) == ("Synthetic", "fast", 1)
    assert len(set(summary["digests"].split())) == 12
    assert json.loads(json.dumps(summary)) == summary
    assert (behaviours(summary), first_seed(summary)) == (["expert", "random"], 0)


@given(st.sets(st.integers(-20, 20) | st.integers(0, 2**40), min_size=1))
def test_ranges_hold_exactly_the_seeds(seeds: set[int]) -> None:
    read = [seed for first, last in _from_ranges(_to_ranges(seeds)) for seed in range(first, last + 1)]
    assert read == sorted(seeds)


def test_mixed_looks_are_refused(make_episode: MakeEpisode, tmp_path: Path) -> None:
    episode = make_episode("hammer", "expert", 0)
    episode.save(tmp_path / "a.safetensors")
    replace(episode, info=replace(episode.info, look="reference")).save(tmp_path / "b.safetensors")
    with pytest.raises(DataError, match=r"expected episodes with one look, got \['fast', 'reference'\]"):
        summarise(Recordings(tmp_path))


def test_episodes_that_training_used_are_not_held_out(
    synthetic_recordings: Path, make_episode: MakeEpisode, tmp_path: Path
) -> None:
    trained = summarise(Recordings(synthetic_recordings))
    make_episode("hammer", "expert", 1000).save(tmp_path / "a.safetensors")
    make_episode("hammer", "noisy", 1).save(tmp_path / "b.safetensors")
    check_held_out(trained, Recordings(tmp_path))
    same_seed = make_episode("hammer", "expert", 2, steps=9)
    same_seed.save(tmp_path / "c.safetensors")
    with pytest.raises(DataError, match=r"c\.safetensors: .*got seed 2 of behaviour 'expert'.*--seed 1000002"):
        check_held_out(trained, Recordings(tmp_path))
    replace(same_seed, info=replace(same_seed.info, environment="Other")).save(tmp_path / "c.safetensors")
    check_held_out(trained, Recordings(tmp_path))


@pytest.mark.parametrize("task", ["hammer", "another name"])
def test_a_copy_is_not_held_out_whatever_its_name_and_seed(
    synthetic_recordings: Path, make_episode: MakeEpisode, tmp_path: Path, task: str
) -> None:
    trained = summarise(Recordings(synthetic_recordings))
    copied = with_seed(make_episode("hammer", "expert", 1), 1_000_000)
    held_out = record(tmp_path, [replace(copied, info=replace(copied.info, task=task, behaviour="other"))])
    with pytest.raises(DataError, match=r"000\.safetensors: .*got a copy of one that was"):
        check_held_out(trained, held_out)


def test_episodes_may_be_split_at_random(make_episode: MakeEpisode, tmp_path: Path) -> None:
    episodes = [make_episode(task, "expert", seed) for task in ("hammer", "plate-slide") for seed in range(10)]
    order = np.random.default_rng(0).permutation(len(episodes))
    trained = summarise(record(tmp_path / "train", [episodes[index] for index in order[:14]]))
    check_held_out(trained, record(tmp_path / "held-out", [episodes[index] for index in order[14:]]))
    with pytest.raises(DataError, match="not used in training"):
        check_held_out(trained, record(tmp_path / "leaked", [episodes[index] for index in order[13:]]))


@pytest.mark.parametrize("tasks", [("hammer",), ("hammer", "plate-slide")])
def test_recordings_without_seeds_are_compared_by_their_content(
    make_episode: MakeEpisode, tmp_path: Path, tasks: tuple[str, ...]
) -> None:
    episodes = [with_seed(make_episode(task, "human", seed), 0) for seed in range(3) for task in tasks]
    trained = summarise(record(tmp_path / "train", episodes[len(tasks) :]))
    check_held_out(trained, record(tmp_path / "held-out", episodes[: len(tasks)]))
    with pytest.raises(DataError, match="a copy of one that was"):
        check_held_out(trained, record(tmp_path / "leaked", episodes[: len(tasks) + 1]))


def test_summaries_of_older_checkpoints_are_read(make_episode: MakeEpisode, tmp_path: Path) -> None:
    config = json.loads((worldgym.checkpoints.path("metaworld-64") / "config.json").read_text(encoding="utf-8"))
    trained = config["training_data"]["earlier"][-1]
    assert (behaviours(trained), first_seed(trained)) == (["expert", "noisy", "random", "smooth"], 0)
    assert first_seed(config["training_data"]["held_out"]) == 1_000_000

    def episode(seed: int) -> Episode:
        made = make_episode("hammer", "expert", seed)
        return replace(made, info=replace(made.info, environment=trained["environment"]))

    check_held_out(trained, record(tmp_path, [episode(40)]))
    with pytest.raises(DataError, match="got seed 39 of behaviour 'expert'"):
        check_held_out(trained, record(tmp_path, [episode(39)]))


@pytest.mark.parametrize(
    "summary",
    [{}, {"episodes": 3}, {"environment": "x", "episodes": {"a": {"b": 1}}, "seeds": {"a": {"b": "x"}}}],
)
def test_other_objects_are_no_summary(summary: dict[str, Any], synthetic_recordings: Path) -> None:
    with pytest.raises(ConfigError, match="expected a summary of the training episodes"):
        check_held_out(summary, Recordings(synthetic_recordings))


def test_any_change_of_an_episode_changes_its_digest(make_episode: MakeEpisode, tmp_path: Path) -> None:
    episode = make_episode("hammer", "expert", 0)
    others = [with_seed(episode, 5), *(replace(episode, **{name: changed(episode, name)}) for name in FIELDS)]
    files = record(tmp_path, [episode, *others]).episodes
    digests = [episode_digest(file) for file in files]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 1 + len(FIELDS)


FIELDS = ("frames", "actions", "rewards", "successes")


def changed(episode: Episode, name: str) -> Any:
    array = getattr(episode, name).copy()
    array[-1] = ~array[-1] if array.dtype == bool else array[-1] + 1
    return array
