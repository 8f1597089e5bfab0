"""What a folder of recordings holds, as plain JSON: runs and checkpoints keep it, held-out data is checked by it."""

from collections.abc import Mapping
from typing import Any, TypeVar

from worldgym.data.recordings import Recordings
from worldgym.errors import DataError

T = TypeVar("T")
Summary = dict[str, Any]


def summarise(recordings: Recordings) -> Summary:
    """Episodes by task and behaviour, the seeds of each behaviour (first and last), and how they were recorded.

    Raises:
        DataError: where environments, looks or frame skips are mixed: no one model describes them all.
    """
    episodes: dict[str, dict[str, int]] = {}
    seeds: dict[str, list[int]] = {}
    for info in (episode.info for episode in recordings.episodes):
        counts = episodes.setdefault(info.task, {})
        counts[info.behaviour] = counts.get(info.behaviour, 0) + 1
        first, last = seeds.get(info.behaviour, [info.seed, info.seed])
        seeds[info.behaviour] = [min(first, info.seed), max(last, info.seed)]
    infos = [episode.info for episode in recordings.episodes]
    return {
        "environment": _only(recordings, "environment", {info.environment for info in infos}),
        "look": _only(recordings, "look", {info.look for info in infos}),
        "frame_skip": _only(recordings, "frame_skip", {info.frame_skip for info in infos}),
        "steps": sum(len(episode) for episode in recordings.episodes),
        "episodes": episodes,
        "seeds": seeds,
    }


def check_held_out(trained: Mapping[str, Any], held_out: Recordings) -> None:
    """Raise :class:`DataError` if an episode of ``held_out`` may be among the ones summarised by ``trained``."""
    for episode in held_out.episodes:
        info = episode.info
        first, last = trained["seeds"].get(info.behaviour, (1, 0))
        if first <= info.seed <= last and info.behaviour in trained["episodes"].get(info.task, {}):
            raise DataError(
                f"{episode.path} is not held out: training used {info.behaviour} episodes of {info.task} with seeds "
                f"{first} to {last}; record others with `worldgym collect --seed {last + 1_000_000}`"
            )


def _only(recordings: Recordings, name: str, values: set[T]) -> T:
    if len(values) > 1:
        raise DataError(
            f"{recordings.folder} mixes episodes with {name} {sorted(map(str, values))}; "
            "keep them in folders of their own"
        )
    return next(iter(values))
