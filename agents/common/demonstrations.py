"""Demonstrations for an agent's replay: recorded episodes, and files of the reference implementation.

A reference file is an npz that holds one episode of T steps, in a folder named after its task:

    observation   uint8   [T + 1, 3 S, H, W]   stacks of S frames, channels first, newest last
    action        float32 [T + 1, A]           action[t] led to observation[t]; the first belongs to no step
    reward        float32 [T + 1, 1]           came with observation[t], summed over repeated steps, bonus included
    discount      float32 [T + 1, 1]           1 everywhere: no episode terminates
"""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldgym.data.episode import SUFFIX, Episode, EpisodeFile, EpisodeInfo
from worldgym.errors import DataError
from worldgym.storage.npz import open_npz

REFERENCE_SUFFIX = ".npz"
REFERENCE_FRAME_SKIP = 2
ARRAYS = ("observation", "action", "reward", "discount")


def load_demonstrations(
    path: Path, *, frame_shape: tuple[int, ...], action_dim: int, task: str | None = None
) -> list[Episode]:
    """All demonstrations below a folder, in the order of their names, with actions clipped to [-1, 1].

    A file that cannot be read is left out with a warning that names it, unless no other file can be read either.

    Args:
        path: a folder of ``*.safetensors`` (our recordings) or ``*.npz`` (the reference's), or one such file.
        frame_shape: the environment's, ``(H, W, 3)``.
        action_dim: the environment's.
        task: the environment's; None accepts any.

    Raises:
        DataError: if there is none, if none can be read, or if one has another size, action dimension or task.
    """
    episodes: list[Episode] = []
    unreadable: list[DataError] = []
    for file in _find(Path(path)):
        try:
            episode = _read(file)
        except DataError as error:
            unreadable.append(error)
            continue
        _check(episode, file, tuple(frame_shape), action_dim, task)
        episodes.append(dataclasses.replace(episode, actions=np.clip(episode.actions, -1, 1)))
    if not episodes:
        listed = "\n".join(str(error) for error in unreadable)
        raise DataError(f"{path}: expected demonstrations, but none of them can be read:\n{listed}")
    for problem in unreadable:
        warnings.warn(f"left out a demonstration. {problem}", stacklevel=2)
    return episodes


def _find(path: Path) -> list[Path]:
    suffixes = SUFFIX, REFERENCE_SUFFIX
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in suffixes)
    found = [file for file in found if not file.name.startswith(".")]
    if not found:
        raise DataError(
            f"{path}: expected demonstrations (*{SUFFIX} or *{REFERENCE_SUFFIX}), found none; "
            f"record some: `worldgym collect --out {path} --tasks plate-slide --episodes expert=5`"
        )
    return found


def _read(path: Path) -> Episode:
    """One demonstration. Raises DataError, which names the file, if it is damaged or of another format."""
    try:
        return _read_reference(path) if path.suffix == REFERENCE_SUFFIX else EpisodeFile(path).load()
    except DataError as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def _read_reference(path: Path) -> Episode:
    observation, action, reward, discount = arrays = _arrays(path)
    steps = len(action) - 1 if action.ndim else 0
    if observation.ndim != 4 or observation.shape[1] % 3 or action.ndim != 2 or steps < 1:
        raise DataError(
            f"expected observation [T + 1, 3 S, H, W] and action [T + 1, A], got {list(observation.shape)} and "
            f"{list(action.shape)}"
        )
    if any(array.shape[:1] != (steps + 1,) for array in arrays):
        raise DataError(f"expected arrays of one length, got shapes {[list(array.shape) for array in arrays]}")
    if (discount != 1).any():
        raise DataError("expected discounts of 1: a demonstration that terminates cannot be read")
    if not np.array_equal(observation[1:, -6:-3], observation[:-1, -3:][:, : observation.shape[1] - 3]):
        raise DataError("expected stacks with the newest frame last, each one frame later than the one before")
    return Episode(
        np.ascontiguousarray(observation[:, -3:].transpose(0, 2, 3, 1)),
        action[1:],
        reward[1:],
        np.zeros(steps, np.bool_),  # not recorded
        EpisodeInfo(
            "reference", path.resolve().parent.name, "demonstration", 0, REFERENCE_FRAME_SKIP, look="reference"
        ),
    )


def _arrays(path: Path) -> list[NDArray[Any]]:
    content = f"npz file with the arrays {', '.join(ARRAYS)}"
    with open_npz(path, content, "download it again or leave it out", error=DataError) as file:
        return [file[name] for name in ARRAYS]


def _check(episode: Episode, path: Path, frame_shape: tuple[int, ...], action_dim: int, task: str | None) -> None:
    """Raise DataError, which names what differs, for a demonstration of another environment."""
    compared = [
        ("frames", frame_shape, episode.frames.shape[1:]),
        ("action dimension", action_dim, episode.actions.shape[1]),
        ("task", task or episode.info.task, episode.info.task),
    ]
    different = [f"{name}: expected {wanted}, got {got}" for name, wanted, got in compared if wanted != got]
    if different:
        by_folder = " (the name of its folder)" if path.suffix == REFERENCE_SUFFIX and "task" in different[-1] else ""
        raise DataError(
            f"{path}: a demonstration of another environment. {'; '.join(different)}{by_folder}. "
            "Choose other demonstrations or move the file"
        )
