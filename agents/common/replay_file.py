"""The file of a replay: one safetensors file that holds the ring, an open episode included.

    frames     uint8    [F, H, W, 3]   the filled places of the ring
    actions    float32  [F, A]
    rewards    float32  [F]
    episodes   int64    [N, 5]         the table of episodes; see :mod:`worldgym.agents.common.replay_ring`

The metadata hold ``format``, ``settings`` (JSON), ``head`` and ``open``. The file has no digest: hashing gigabytes at
every checkpoint would take longer than writing them.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from worldgym.agents.common.replay_ring import EPISODE, FIELDS, ReplayRing, ReplaySettings
from worldgym.config import from_dict
from worldgym.errors import CheckpointError, ConfigError
from worldgym.storage.files import atomic_write, parse_json
from worldgym.storage.tensors import open_tensors

FORMAT = "worldgym-replay-1"
BLOCK = 1024  # frames that are read at a time, so that no second copy of them all is made


def write_replay(path: Path, ring: ReplayRing) -> None:
    """Write a ring atomically.

    Raises:
        StorageError: if the file cannot be written; an earlier file of this name is kept.
    """
    filled = ring.filled
    tensors: dict[str, NDArray[Any]] = {
        "frames": ring.frames[:filled],
        "actions": ring.actions[:filled],
        "rewards": ring.rewards[:filled],
        "episodes": np.ascontiguousarray(ring.episodes).view(np.int64).reshape(-1, len(FIELDS)),
    }
    metadata = {
        "format": FORMAT,
        "settings": json.dumps(dataclasses.asdict(ring.settings)),
        "head": str(ring.head),
        "open": str(int(ring.open)),
    }
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata)


def read_settings(path: Path) -> ReplaySettings:
    """The settings of the replay in a file.

    Raises:
        CheckpointError: if the file is missing, damaged or of another format.
    """
    with _opened(path) as (_, metadata):
        return _settings(path, metadata)


def read_replay(path: Path, ring: ReplayRing) -> None:
    """Fill a ring from a file.

    Raises:
        CheckpointError: if the file is missing or damaged, or holds a replay of other settings. The ring is unchanged
            then.
    """
    with _opened(path) as (file, metadata):
        _check_settings(path, _settings(path, metadata), ring.settings)
        head, is_open, episodes = int(metadata["head"]), metadata["open"] == "1", file.get_tensor("episodes")
        filled = min(head, ring.places)
        _check_tensors(path, file, ring.settings, filled, len(episodes))
        _check_episodes(path, episodes, head, ring.places, is_open)
        actions, rewards, frames = file.get_tensor("actions"), file.get_tensor("rewards"), file.get_slice("frames")
        for begin in range(0, filled, BLOCK):
            block = slice(begin, min(begin + BLOCK, filled))
            ring.frames[block] = frames[block]
        ring.actions[:filled], ring.rewards[:filled] = actions, rewards
    ring.episodes, ring.head, ring.open = episodes.view(EPISODE).reshape(-1), head, is_open
    ring.keep(np.ones(len(ring.episodes), np.bool_))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Mapping[str, str]]]:
    """An open file and its metadata."""
    with open_tensors(path, "a saved replay", framework="np") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"{path}: expected a replay of format {FORMAT!r}, got {metadata.get('format')!r}")
        yield file, metadata


def _settings(path: Path, metadata: Mapping[str, str]) -> ReplaySettings:
    where = f"{path}: settings"
    try:
        return from_dict(ReplaySettings, parse_json(metadata["settings"], where), where)
    except ConfigError as error:
        raise CheckpointError(f"{path} is damaged ({error}): restore it from a copy") from error


def _check_settings(path: Path, saved: ReplaySettings, own: ReplaySettings) -> None:
    expected = vars(own)
    different = [
        f"{name}: expected {expected[name]}, got {value}"
        for name, value in vars(saved).items()
        if value != expected[name]
    ]
    if different:
        raise CheckpointError(f"{path} holds a replay of other settings. {'; '.join(different)}")


def _check_tensors(path: Path, file: Any, settings: ReplaySettings, filled: int, episodes: int) -> None:
    expected = {
        "frames": ("U8", [filled, *settings.frame_shape]),
        "actions": ("F32", [filled, settings.action_dim]),
        "rewards": ("F32", [filled]),
        "episodes": ("I64", [episodes, len(FIELDS)]),
    }
    for name, wanted in expected.items():
        part = file.get_slice(name)
        got = part.get_dtype(), list(part.get_shape())
        if got != wanted:
            raise CheckpointError(f"{path} is damaged: expected {name} of {wanted}, got {got}")


def _check_episodes(path: Path, episodes: NDArray[np.int64], head: int, places: int, is_open: bool) -> None:
    """Check that episodes are in order and within the filled places."""
    begin, first, end = (episodes[:, column] for column in range(3))
    within = (begin >= max(0, head - places)) & (begin <= first) & (first <= end) & (end < head)
    in_order = (begin[1:] > end[:-1]).all()
    ends_open = len(end) and end[-1] == head - 1
    if not within.all() or not in_order or (is_open and not ends_open):
        raise CheckpointError(f"{path} is damaged: expected episodes within its {min(head, places)} frames")
