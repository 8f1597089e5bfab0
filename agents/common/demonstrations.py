"""Demonstrations that an agent's replay begins with: our own recordings, and files of the reference implementation.

A reference file is an npz that holds an episode of T steps, and lies in a folder named after its task:

    observation   uint8   [T + 1, 3 S, H, W]   stacks of S frames, channels first, newest last
    action        float32 [T + 1, A]           action[t] led to observation[t]; the first led nowhere
    reward        float32 [T + 1, 1]           came with observation[t], summed over repeated steps, bonus included
    discount      float32 [T + 1, 1]           1 everywhere: nothing terminates
"""

import dataclasses
import warnings
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from worldgym.data.episode import SUFFIX, Episode, EpisodeFile, EpisodeInfo
from worldgym.errors import DataError

REFERENCE_SUFFIX = ".npz"


def load_demonstrations(
    path: Path, *, frame_shape: tuple[int, ...], action_dim: int, task: str | None = None
) -> list[Episode]:
    """All demonstrations below a folder (or one file), in the order of their names, actions clipped to [-1, 1].

    A recording that cannot be read is left out with a warning that names it, as long as another can.

    Args:
        path: where ``*.safetensors`` of our own or ``*.npz`` of the reference lie.
        frame_shape: the environment's, ``(H, W, 3)``.
        action_dim: the environment's.
        task: the environment's; any unless given.

    Raises:
        DataError: where there are none, where none can be read, or for one of another size, action dimension or task.
    """
    paths = _find(Path(path))
    episodes: list[Episode] = []
    broken: list[DataError] = []
    for each in paths:
        try:
            episode = _read(each)
        except DataError as error:
            broken.append(error)
            continue
        _check(episode, each, tuple(frame_shape), action_dim, task)
        episodes.append(dataclasses.replace(episode, actions=np.clip(episode.actions, -1, 1)))
    if not episodes:
        named = "\n".join(str(error) for error in broken)
        raise DataError(f"no demonstration below {path} can be read:\n{named}")
    for problem in broken:
        warnings.warn(f"left out a demonstration. {problem}", stacklevel=2)
    return episodes


def _find(path: Path) -> list[Path]:
    suffixes = SUFFIX, REFERENCE_SUFFIX
    found = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.suffix in suffixes)
    found = [each for each in found if not each.name.startswith(".")]
    if not found:
        raise DataError(
            f"no demonstrations (*{SUFFIX} or *{REFERENCE_SUFFIX}) below {path}; "
            f"record some: `worldgym collect --out {path} --tasks plate-slide --episodes expert=5`"
        )
    return found


def _read(path: Path) -> Episode:
    """One demonstration. Raises DataError, which names the file, for one that is damaged or of another format."""
    try:
        return _read_reference(path) if path.suffix == REFERENCE_SUFFIX else EpisodeFile(path).load()
    except DataError as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def _read_reference(path: Path) -> Episode:
    arrays = _arrays(path)
    observation, action, reward, discount = arrays
    steps = len(action) - 1
    if observation.ndim != 4 or observation.shape[1] % 3 or action.ndim != 2 or steps < 1:
        raise DataError(
            f"expected observation [T + 1, 3 S, H, W] and action [T + 1, A], got {list(observation.shape)} and "
            f"{list(action.shape)}"
        )
    if any(array.size != steps + 1 for array in (reward, discount)) or len(observation) != steps + 1:
        raise DataError(f"its arrays differ in length: {[list(array.shape) for array in arrays]}")
    if (discount != 1).any():
        raise DataError("expected discounts of 1: a demonstration that terminates cannot be read")
    if not np.array_equal(observation[1:, -6:-3], observation[:-1, -3:][:, : observation.shape[1] - 3]):
        raise DataError("expected stacks with the newest frame last, each of them the one before moved on by a frame")
    return Episode(
        np.ascontiguousarray(observation[:, -3:].transpose(0, 2, 3, 1)),
        action[1:].astype(np.float32),
        reward.reshape(-1)[1:].astype(np.float32),
        np.zeros(steps, np.bool_),  # not recorded
        EpisodeInfo("reference", path.resolve().parent.name, "demonstration", 0, 2, "reference"),
    )


def _arrays(path: Path) -> list[NDArray[Any]]:
    names = "observation", "action", "reward", "discount"
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return [file[name] for name in names]
    except (OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, BadZipFile, zlib.error) as error:
        raise DataError(f"not a readable demonstration, an npz with the arrays {', '.join(names)} ({error})") from error


def _check(episode: Episode, path: Path, frame_shape: tuple[int, ...], action_dim: int, task: str | None) -> None:
    """Raise DataError, which names what differs, for a demonstration of another environment."""
    compared = [
        ("frames", frame_shape, episode.frames.shape[1:]),
        ("action dimension", action_dim, episode.actions.shape[1]),
        ("task", task or episode.info.task, episode.info.task),
    ]
    different = [f"{name}: expected {wanted}, got {got}" for name, wanted, got in compared if wanted != got]
    if different:
        named = " (named by its folder)" if path.suffix == REFERENCE_SUFFIX and "task" in different[-1] else ""
        raise DataError(f"{path} demonstrates something else; {'; '.join(different)}{named}. Choose others, or move it")
