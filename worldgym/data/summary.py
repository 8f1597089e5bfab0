"""Summaries of recordings as plain JSON, and the check that held-out recordings were not used in training.

Runs and checkpoints keep the summary of the recordings that they were trained on:

    environment  str                    id of the environment
    look         str                    the way in which the simulator drew the frames
    frame_skip   int                    simulator steps in one recorded step
    steps        int                    recorded steps in all
    episodes     {task: {behaviour: n}} number of episodes
    seeds        {task: {behaviour: s}} seeds of the episodes as ranges, such as "0-39, 45"
    digests      str                    one digest for each episode, separated by spaces; see episode_digest()
    mixture      {name: {...}}          weights and steps of the parts, in the summary of a mixture alone

Older summaries have no digests, and their seeds are ``{behaviour: [first, last]}``.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from worldgym.data.episode import EpisodeFile, EpisodeInfo
from worldgym.data.recordings import Recordings
from worldgym.errors import ConfigError, DataError

T = TypeVar("T")
Summary = dict[str, Any]
Ranges = list[tuple[int, int]]
MIXED = {"environment": "mixture", "look": "mixture", "frame_skip": 1}  # what a mixture says where its parts differ
DIGEST_LENGTH = 12  # hexadecimal digits: 48 bits, enough for millions of episodes


def summarise(recordings: Recordings) -> Summary:
    """Summarise recordings.

    Args:
        recordings: episodes of one environment, look and frame skip, or a mixture.

    Returns:
        The summary, as described at the head of this module.

    Raises:
        DataError: if environments, looks or frame skips are mixed: one model cannot describe them all.
    """
    several = MIXED if recordings.mixture else {}
    infos = [episode.info for episode in recordings.episodes]
    seeds: dict[str, dict[str, set[int]]] = {}
    for info in infos:
        seeds.setdefault(info.task, {}).setdefault(info.behaviour, set()).add(info.seed)
    counts = Counter((info.task, info.behaviour) for info in infos)
    return {
        "environment": _only(recordings, "environment", {info.environment for info in infos}, several),
        "look": _only(recordings, "look", {info.look for info in infos}, several),
        "frame_skip": _only(recordings, "frame_skip", {info.frame_skip for info in infos}, several),
        "steps": sum(len(episode) for episode in recordings.episodes),
        "episodes": {task: {name: counts[task, name] for name in parts} for task, parts in seeds.items()},
        "seeds": {task: {name: _to_ranges(part) for name, part in parts.items()} for task, parts in seeds.items()},
        "digests": " ".join(sorted(episode_digest(episode) for episode in recordings.episodes)),
        **({"mixture": dict(recordings.mixture)} if recordings.mixture else {}),
    }


def episode_digest(episode: EpisodeFile) -> str:
    """A digest that is equal for equal episodes and different for different ones, whatever their files are called.

    Args:
        episode: the episode; of a view, the one that was recorded. Its actions, rewards and successes count, and its
            first, middle and last frame.

    Returns:
        12 hexadecimal digits.
    """
    digest, episode = hashlib.sha256(), episode.recorded
    for array in (episode.actions, episode.rewards, episode.successes):
        digest.update(f"{array.shape}".encode() + array.tobytes())
    for index in (0, len(episode) // 2, len(episode)):
        digest.update(episode.frames(index, index + 1).tobytes())
    return digest.hexdigest()[:DIGEST_LENGTH]


def check_held_out(trained: Mapping[str, Any], held_out: Recordings) -> None:
    """Check that no held-out episode was used in training.

    An episode was used if its digest is among those of the training episodes, or if a training episode of the same
    environment, task and behaviour has its seed. Seeds that several episodes share, or that are 0 in all of them,
    identify no episode and do not count. An older summary has the first and the last seed of each behaviour; there
    every seed between them counts as used.

    Args:
        trained: summary of the recordings used in training.
        held_out: recordings to be used in evaluation.

    Raises:
        DataError: if an episode was used; the message names it.
        ConfigError: if ``trained`` is not a summary.
    """
    try:
        digests = set(trained.get("digests", "").split())
        used = _used_seeds(trained, held_out)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"expected a summary of the training episodes as `worldgym export` writes it, got another object "
            f"({error!r}); export the checkpoint again"
        ) from error
    for episode in held_out.episodes:
        info = episode.info
        ranges = used.get((info.task, info.behaviour), []) if info.environment == trained["environment"] else []
        if any(first <= info.seed <= last for first, last in ranges):
            raise DataError(_not_held_out(episode, ranges))
        if digests and episode_digest(episode) in digests:
            raise DataError(
                f"{episode.path}: expected an episode that was not used in training, got a copy of one that was; "
                "take it out of the held-out folder"
            )


def summaries(training_data: Mapping[str, Any]) -> Iterator[Summary]:
    """The summaries of all recordings that a checkpoint was trained on, from its configuration's ``training_data``.

    They are those of the transformer, of the tokenizer where it had others, and those of the checkpoints from whose
    weights training started.
    """
    for name in ("trained_on", "tokenizer_trained_on"):
        if name in training_data:
            yield training_data[name]
    yield from training_data.get("earlier", ())


def behaviours(summary: Mapping[str, Any]) -> list[str]:
    """Names of all behaviours in a summary, sorted."""
    return sorted({name for counts in summary["episodes"].values() for name in counts})


def first_seed(summary: Mapping[str, Any]) -> int:
    """The smallest seed in a summary."""
    return min(first for _, ranges in _seed_ranges(summary) for first, _ in ranges)


def has_consecutive_seeds(summary: Mapping[str, Any]) -> bool:
    """Whether ``worldgym collect`` would record these seeds: from :func:`first_seed` on, one for each episode."""
    first, episodes = first_seed(summary), summary["episodes"]
    return all(
        ranges == [(first, first + episodes[task][behaviour] - 1)]
        for (task, behaviour), ranges in _seed_ranges(summary)
    )


def _used_seeds(trained: Mapping[str, Any], held_out: Recordings) -> dict[tuple[str, str], Ranges]:
    """Ranges of used seeds by task and behaviour, without behaviours whose seeds identify no episode."""
    used = dict(_seed_ranges(trained))
    if "digests" not in trained:
        return used
    unclear = _unclear_behaviours(trained) | _shared_behaviours(episode.info for episode in held_out.episodes)
    return {(task, name): ranges for (task, name), ranges in used.items() if name not in unclear}


def _unclear_behaviours(summary: Mapping[str, Any]) -> set[str]:
    """Behaviours with fewer seeds than episodes, or with several episodes whose seeds are all 0."""
    episodes: Counter[str] = Counter()
    seeds: dict[str, Ranges] = {}
    for (task, name), ranges in _seed_ranges(summary):
        episodes[name] += summary["episodes"][task][name]
        seeds.setdefault(name, []).extend(ranges)
    sizes = {name: sum(last - first + 1 for first, last in ranges) for name, ranges in seeds.items()}
    zero = {name for name, ranges in seeds.items() if episodes[name] > 1 and set(ranges) == {(0, 0)}}
    return zero | {name for name, size in sizes.items() if size < episodes[name]}


def _shared_behaviours(infos: Iterable[EpisodeInfo]) -> set[str]:
    """Behaviours of which two episodes of one task have the same seed."""
    counts = Counter((info.task, info.behaviour, info.seed) for info in infos)
    return {behaviour for (_, behaviour, _), count in counts.items() if count > 1}


def _seed_ranges(summary: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Ranges]]:
    """Task, behaviour, and ranges of seeds, first and last, of a summary old or new."""
    seeds = summary["seeds"]
    for task, counts in summary["episodes"].items():
        for behaviour in counts:
            if isinstance(seeds.get(behaviour), (list, tuple)):  # an older summary
                first, last = seeds[behaviour]
                yield (task, behaviour), [(int(first), int(last))]
            else:
                yield (task, behaviour), _from_ranges(seeds[task][behaviour])


def _to_ranges(numbers: set[int]) -> str:
    """Numbers as text: ``{0, 1, 2, 7}`` as ``"0-2, 7"``."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _from_ranges(text: str) -> Ranges:
    """Inverse of :func:`_to_ranges`, as pairs of the first and last number of each range."""
    pairs = []
    for part in text.split(", "):
        match = re.fullmatch(r"(-?\d+)(?:-(-?\d+))?", part)
        if match is None:
            raise ValueError(f"expected ranges of seeds such as '0-39, 45', got {text!r}")
        first, last = match.groups()
        pairs.append((int(first), int(last or first)))
    return pairs


def _not_held_out(episode: EpisodeFile, ranges: Ranges) -> str:
    info, last = episode.info, ranges[-1][1]
    return (
        f"{episode.path}: expected an episode that was not used in training, got seed {info.seed} of behaviour "
        f"{info.behaviour!r} in task {info.task!r}, which was; record others with "
        f"`worldgym collect --seed {last + 1_000_000}`"
    )


def _only(recordings: Recordings, name: str, values: set[T], several: Mapping[str, Any]) -> T:
    """The only value; where there are others too, that in ``several``."""
    if len(values) > 1 and name in several:
        mixed: T = several[name]
        return mixed
    if len(values) > 1:
        raise DataError(
            f"{recordings.folder}: expected episodes with one {name}, got {sorted(map(str, values))}; "
            "put them into folders of their own"
        )
    return next(iter(values))
