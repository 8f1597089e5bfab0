"""Mixtures of recordings, each sampled by its weight and with its step, described by one JSON file:

    {"bridge": {"folders": ["bridge"], "weight": 2.0, "step": 1, "action_dim": 7},
     "clips":  {"folders": ["clips", "more-clips"], "weight": 0.5, "step": 3, "action_dim": 7}}

Folders are relative to the file. Entries beside ``folders`` may be left out; see :class:`Part`.
"""

import copy
import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldgym.config import check_numbers, from_dict
from worldgym.data.episode import EpisodeFile
from worldgym.data.recordings import Recordings
from worldgym.errors import ConfigError
from worldgym.storage.files import read_json

SUFFIX = ".json"
FILL_UP = "an equal action_dim in all entries fills actions up with zeros, and 0 leaves them out"
ADVICE = ("record or convert them at one --resolution", FILL_UP, FILL_UP)


@dataclass(frozen=True)
class Part:
    """One entry of a mixture."""

    folders: tuple[str, ...]
    """Folders of episodes."""
    weight: float = 1.0
    """Share of the sampled segments, relative to the other entries' weights."""
    step: int = 1
    """One in so many frames is taken. Rewards between them are added up. Above 1, there must be no actions, which
    cannot be joined: recordings that have some need an ``action_dim`` of 0."""
    action_dim: int | None = None
    """Length of the actions, as plain vectors: shorter ones are filled up with zeros; 0 leaves actions out."""

    def __post_init__(self) -> None:
        if not self.folders:
            raise ConfigError("folders: expected at least one folder, got none")
        check_numbers(self, above_zero=("weight", "step"), from_zero=() if self.action_dim is None else ("action_dim",))


class EpisodeView(EpisodeFile):
    """An episode with fewer frames and its actions as plain vectors. Frames are read when they are asked for."""

    def __init__(self, recorded: EpisodeFile, step: int, action_dim: int) -> None:
        """View an episode.

        Args:
            recorded: the episode.
            step: one in so many frames is taken, from the first one on; what is left at the end is left out.
            action_dim: length of the actions, which are filled up with zeros; 0 leaves them out.
        """
        self.path, self._recorded, self._step = recorded.path, recorded, step
        info, actions = recorded.info, recorded.actions[:, :action_dim]
        self.info = dataclasses.replace(
            info,
            frame_skip=info.frame_skip * step,
            terminated=info.terminated and len(recorded) % step == 0,
            action_space={},
            max_steps=None if info.max_steps is None else info.max_steps // step,
        )
        count = len(recorded) // step
        self.shape = (count + 1, *recorded.shape[1:])
        self.actions = np.pad(actions[: count * step : step], ((0, 0), (0, action_dim - actions.shape[1])))
        rewards, successes = (
            array[: count * step].reshape(count, step) for array in (recorded.rewards, recorded.successes)
        )
        self.rewards, self.successes = rewards.sum(axis=1), successes.any(axis=1)

    @property
    def recorded(self) -> EpisodeFile:
        return self._recorded.recorded  # which may be a view, too

    def frames(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        return self.frames_at(range(start, self.shape[0] if stop is None else stop))

    def frames_at(self, indices: Iterable[int]) -> NDArray[np.uint8]:
        return self._recorded.frames_at(self._step * int(index) for index in indices)


class Mixture(Recordings):
    """Recordings of several kinds. An entry is sampled by its weight, then one of its episodes uniformly.

    Validation and evaluation take all episodes alike, with each entry's step.
    """

    def __init__(self, path: Path) -> None:
        """Open all episodes of a mixture.

        Args:
            path: a JSON file as described at the head of this module. It takes the place of ``folder``.

        Raises:
            ConfigError: if the file is missing or not as described; if resolutions or actions of its entries differ; if
                frames are left out of recordings that have actions.
            DataError: as :class:`Recordings`, for each entry.
        """
        self.folder = Path(path)
        parts = _read_parts(self.folder)
        opened = {
            name: Recordings(*(self.folder.parent / folder for folder in part.folders)) for name, part in parts.items()
        }
        episodes = {name: _viewed(opened[name], part, f"{path}: {name}") for name, part in parts.items()}
        _check_alike(episodes, str(path))
        self._take([episode for found in episodes.values() for episode in found])
        self.mixture = {
            name: {
                "weight": part.weight,
                "step": part.step,
                "action_dim": self.action_dim,
                "episodes": len(episodes[name]),
            }
            for name, part in parts.items()
        }
        self._counts = [len(found) for found in episodes.values()]
        self._shares = np.cumsum([part.weight for part in parts.values()])
        self._shares /= self._shares[-1]

    def draw(self, rng: np.random.Generator) -> int:
        """Sample an episode: an entry by the weights, then one of its episodes uniformly.

        Returns:
            Its index.
        """
        part = int(np.searchsorted(self._shares, rng.random(), side="right"))
        return sum(self._counts[:part]) + int(rng.integers(self._counts[part]))


def open_recordings(folder: Path, *more: Path) -> Recordings:
    """Open folders of episodes, or one mixture.

    Args:
        folder: a folder, or the JSON file of a mixture.
        *more: further folders.

    Raises:
        ConfigError: for a mixture beside others. Else as :class:`Mixture`.
        DataError: as :class:`Recordings`.
    """
    paths = [Path(path) for path in (folder, *more)]
    mixtures = [path for path in paths if path.suffix == SUFFIX and not path.is_dir()]
    if not mixtures:
        return Recordings(*paths)
    if len(paths) > 1:
        raise ConfigError(
            f"{mixtures[0]}: expected a mixture by itself, got {len(paths)} paths; add the others to the mixture's file"
        )
    return Mixture(mixtures[0])


def with_action_dim(recordings: Recordings, action_dim: int) -> Recordings:
    """Recordings with actions of another length.

    Args:
        recordings: folders or a mixture; not changed.
        action_dim: shorter actions are filled up with zeros; 0 leaves actions out.

    Raises:
        ConfigError: for an ``action_dim`` above 0 that is shorter than the actions.
    """
    _check_action_dim(recordings, action_dim, str(recordings.folder))
    if action_dim == recordings.action_dim:
        return recordings
    changed = copy.copy(recordings)
    changed._take([EpisodeView(episode, 1, action_dim) for episode in recordings.episodes])
    changed.mixture = {name: {**part, "action_dim": action_dim} for name, part in recordings.mixture.items()}
    return changed


def _check_action_dim(recordings: Recordings, length: int, where: str) -> None:
    if 0 < length < recordings.action_dim:
        raise ConfigError(
            f"{where}: expected an action_dim of at least {recordings.action_dim}, which its actions have, or 0, which "
            f"leaves them out; got {length}"
        )


def _read_parts(path: Path) -> dict[str, Part]:
    parts = {}
    for name, values in read_json(path).items():
        if not isinstance(values, dict):
            raise ConfigError(f'{path}: {name}: expected an object such as {{"folders": ["data"]}}, got {values!r}')
        try:
            parts[name] = from_dict(Part, values, "entry")
        except ConfigError as error:
            raise ConfigError(f"{path}: {name}: {error}") from error
    total = sum(part.weight for part in parts.values())
    if not 0 < total < math.inf:
        raise ConfigError(f"{path}: expected entries whose weights have a finite sum above 0, got the sum {total:g}")
    return parts


def _viewed(recordings: Recordings, part: Part, where: str) -> list[EpisodeFile]:
    """The episodes of an entry with its step and length of actions."""
    length = recordings.action_dim if part.action_dim is None else part.action_dim
    _check_action_dim(recordings, length, where)
    if part.step > 1 and length:
        raise ConfigError(
            f"{where}: expected a step of 1, because it has actions, which cannot be joined over the steps between, "
            f"got {part.step}; an action_dim of 0 in every entry leaves actions out"
        )
    if part.step == 1 and part.action_dim is None:
        return recordings.episodes
    return [EpisodeView(episode, part.step, length) for episode in recordings.episodes]


def _check_alike(episodes: dict[str, list[EpisodeFile]], where: str) -> None:
    """Raise ConfigError, with the entry's name, where frames or actions differ from those of the first entry."""
    kinds = {name: _kind(found[0]) for name, found in episodes.items()}
    first = next(iter(kinds))
    for name, kind in kinds.items():
        for got, expected, advice in zip(kind, kinds[first], ADVICE, strict=True):
            if got != expected:
                raise ConfigError(f"{where}: expected {expected} in {name}, as in {first}, got {got}; {advice}")


def _kind(episode: EpisodeFile) -> tuple[str, str, str]:
    """What all entries must have in common."""
    height, width = episode.shape[1:3]
    space = episode.info.action_space or "of vectors in [-1, 1]"
    return f"frames {height}x{width}", f"actions of length {episode.actions.shape[1]}", f"the action space {space}"
