"""One recorded episode and its file.

An episode is one safetensors file: it can be memory-mapped, needs no pickle and describes itself. Tensors:

    frames     uint8   [T + 1, H, W, 3]   frames[0] is the reset's observation
    actions    float32 [T, action_dim]    actions[t] leads from frames[t] to frames[t + 1]
    rewards    float32 [T]                rewards[t] came with frames[t + 1]
    successes  uint8   [T]                1 where the task counted as solved

The header's metadata holds ``format`` and ``info``, a JSON object with the entries of :class:`EpisodeInfo`.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from worldgym.config import from_dict
from worldgym.data.arrays import checked_actions, checked_frames, checked_rewards, checked_successes
from worldgym.errors import ConfigError, DataError
from worldgym.storage.files import atomic_write, parse_json
from worldgym.storage.tensors import FORMAT as FORMAT_ENTRY
from worldgym.storage.tensors import open_tensors

FORMAT = "worldgym-episode-1"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class EpisodeInfo:
    """Where an episode comes from.

    Attributes:
        environment: id of the environment, such as ``"Simulator-X-v0"``.
        task: name of the task, any text.
        behaviour: name of the policy that acted.
        seed: the seed that the episode was recorded with; 0 where there is none.
        frame_skip: simulator steps in one recorded step.
        look: the way in which the simulator drew the frames.
        terminated: whether the last step ended the episode, other than by a time limit.
        action_space: description of the environment's action space, from which the recorded vectors were encoded; empty
            for vectors in [-1, 1]. See ``worldgym.envs.actions``.
        max_steps: steps after which the environment truncates an episode; None if that is unknown.
    """

    environment: str
    task: str
    behaviour: str
    seed: int
    frame_skip: int
    look: str = "fast"
    terminated: bool = False
    action_space: Mapping[str, Any] = field(default_factory=dict)
    max_steps: int | None = None


@dataclass(frozen=True)
class Episode:
    """A recorded episode of T steps.

    The arrays are checked and converted by :mod:`worldgym.data.arrays`: a column ``[T, 1]`` of rewards or successes
    becomes ``[T]``, float64 becomes float32.

    Attributes:
        frames: uint8 ``[T + 1, H, W, 3]``; ``frames[0]`` is the observation at reset.
        actions: float32 ``[T, A]``; ``actions[t]`` leads from ``frames[t]`` to ``frames[t + 1]``.
        rewards: float32 ``[T]``; ``rewards[t]`` came with ``frames[t + 1]``.
        successes: bool ``[T]``; True where the task counted as solved.
        info: where the episode comes from.

    Raises:
        DataError: for arrays of other shapes or dtypes, and for numbers that are not finite in float32.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    successes: NDArray[np.bool_]
    info: EpisodeInfo

    def __post_init__(self) -> None:
        where = f"episode {self.info}"
        actions = checked_actions(self.actions, where=where)
        checked = {
            "actions": actions,
            "frames": checked_frames(self.frames, count=len(actions) + 1, where=where),
            "rewards": checked_rewards(self.rewards, steps=len(actions), where=where),
            "successes": checked_successes(self.successes, steps=len(actions), where=where),
        }
        for name, array in checked.items():
            object.__setattr__(self, name, array)  # because the class is frozen

    def __len__(self) -> int:
        return len(self.actions)

    def cut(self, steps: int) -> "Episode":
        """The first steps of the episode; all of them if it has no more."""
        if steps >= len(self):
            return self
        info = dataclasses.replace(self.info, terminated=False)
        parts = self.actions[:steps], self.rewards[:steps], self.successes[:steps]
        return Episode(self.frames[: steps + 1], *parts, info)

    def save(self, path: Path) -> None:
        """Write the episode's file atomically.

        Raises:
            StorageError: if the file cannot be written.
        """
        tensors: dict[str, NDArray[Any]] = {
            "frames": np.ascontiguousarray(self.frames),
            "actions": np.ascontiguousarray(self.actions),
            "rewards": np.ascontiguousarray(self.rewards),
            "successes": np.ascontiguousarray(self.successes, np.uint8),
        }
        metadata = {FORMAT_ENTRY: FORMAT, "info": json.dumps(dataclasses.asdict(self.info))}
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata)


class EpisodeFile:
    """Random access to the file of an episode. Frames are read from disk when they are asked for.

    Attributes:
        path: the file.
        info: where the episode comes from.
        shape: shape of all frames, ``(T + 1, H, W, 3)``.
        actions: float32 ``[T, A]``.
        rewards: float32 ``[T]``.
        successes: bool ``[T]``.
    """

    def __init__(self, path: Path) -> None:
        """Read everything but the frames.

        Args:
            path: a file that :meth:`Episode.save` wrote.

        Raises:
            DataError: if the file is missing, damaged, of another format, or holds arrays of other shapes or dtypes.
        """
        self.path = path
        with self._open() as file:
            metadata = file.metadata() or {}
            if metadata.get(FORMAT_ENTRY) != FORMAT:
                raise DataError(
                    f"{path}: expected an episode of format {FORMAT!r}, got {metadata.get(FORMAT_ENTRY)!r}; "
                    "move the file elsewhere"
                )
            self.info = _episode_info(metadata.get("info", ""), path)
            self.shape = _frames_shape(file.get_slice("frames"), path)
            where, steps = str(path), self.shape[0] - 1
            self.actions = checked_actions(file.get_tensor("actions"), steps=steps, where=where)
            self.rewards = checked_rewards(file.get_tensor("rewards"), steps=steps, where=where)
            self.successes = checked_successes(file.get_tensor("successes"), steps=steps, where=where)

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def recorded(self) -> "EpisodeFile":
        """The episode as it was recorded: itself, unless this is a view such as those of a mixture."""
        return self

    @property
    def terminations(self) -> NDArray[np.bool_]:
        """Bool ``[T]``, True where a step ended the episode, other than by a time limit: at most the last one."""
        ended = np.zeros(len(self), np.bool_)
        ended[-1:] = self.info.terminated
        return ended

    def frames(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Read frames ``start`` to ``stop``.

        Args:
            start: index of the first frame.
            stop: index after the last frame; None reads to the end.

        Returns:
            Frames, uint8 ``[N, H, W, 3]``.

        Raises:
            DataError: if the file cannot be read any more.
        """
        with self._open() as file:
            frames: NDArray[np.uint8] = file.get_slice("frames")[start : self.shape[0] if stop is None else stop]
        return frames

    def frames_at(self, indices: Iterable[int]) -> NDArray[np.uint8]:
        """Read some frames.

        Args:
            indices: of the frames, in any order; an index may repeat.

        Returns:
            Frames, uint8 ``[N, H, W, 3]``.

        Raises:
            DataError: if the file cannot be read any more.
        """
        with self._open() as file:
            stored = file.get_slice("frames")
            return np.concatenate([stored[index : index + 1] for index in map(int, indices)])

    def load(self) -> Episode:
        """The whole episode."""
        return Episode(self.frames(), self.actions, self.rewards, self.successes, self.info)

    def _open(self) -> AbstractContextManager[Any]:
        return open_tensors(self.path, "a recorded episode", framework="np", error=DataError)


def _episode_info(text: str, path: Path) -> EpisodeInfo:
    try:
        return from_dict(EpisodeInfo, parse_json(text, "info"), "info")
    except ConfigError as error:
        raise DataError(
            f"{path}: expected metadata that describe an episode, got others ({error}); record the episode again"
        ) from error


def _frames_shape(frames: Any, path: Path) -> tuple[int, ...]:
    """The shape of stored frames, checked without reading them."""
    dtype, shape = frames.get_dtype(), tuple(frames.get_shape())
    if dtype != "U8" or len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        raise DataError(
            f"{path}: expected frames uint8 [T + 1, H, W, 3], got {dtype} {list(shape)}; record the episode again"
        )
    return shape
