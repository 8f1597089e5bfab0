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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from worldgym.config import from_dict
from worldgym.errors import ConfigError, DataError
from worldgym.storage.files import atomic_write, parse_json

FORMAT = "worldgym-episode-1"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class EpisodeInfo:
    """Where an episode came from. ``frame_skip`` counts simulator steps a recorded step."""

    environment: str
    task: str
    behaviour: str
    seed: int
    frame_skip: int
    look: str = "fast"


@dataclass(frozen=True)
class Episode:
    """``T`` steps: frames uint8 ``[T + 1, H, W, 3]``, actions ``[T, A]``, rewards ``[T]``, successes bool ``[T]``."""

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    successes: NDArray[np.bool_]
    info: EpisodeInfo

    def __post_init__(self) -> None:
        steps = len(self.actions)
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[3] != 3:
            raise DataError(f"frames must be uint8 [T + 1, H, W, 3], got {self.frames.dtype} {self.frames.shape}")
        if len(self.frames) != steps + 1 or len(self.rewards) != steps or len(self.successes) != steps:
            raise DataError(
                f"{steps} actions need {steps + 1} frames and {steps} rewards and successes, got "
                f"{len(self.frames)}, {len(self.rewards)}, {len(self.successes)}"
            )
        if not (np.isfinite(self.actions).all() and np.isfinite(self.rewards).all()):
            raise DataError(f"actions or rewards are not finite in the episode {self.info}")

    def __len__(self) -> int:
        return len(self.actions)

    def save(self, path: Path) -> None:
        """Write the file, atomically; :class:`StorageError` where the disk refuses."""
        tensors: dict[str, NDArray[Any]] = {
            "frames": np.ascontiguousarray(self.frames),
            "actions": np.ascontiguousarray(self.actions, np.float32),
            "rewards": np.ascontiguousarray(self.rewards, np.float32),
            "successes": np.ascontiguousarray(self.successes, np.uint8),
        }
        metadata = {"format": FORMAT, "info": json.dumps(dataclasses.asdict(self.info))}
        with atomic_write(path) as aside:
            save_file(tensors, aside, metadata)


class EpisodeFile:
    """Random access to a recorded episode: only the frames asked for are read.

    Raises:
        DataError: for a file that is missing, cut short or of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise DataError(f"{path}: expected an episode of format {FORMAT!r}, got {metadata.get('format')!r}")
            self.info = _episode_info(metadata.get("info", ""), path)
            try:
                self.shape: tuple[int, ...] = tuple(file.get_slice("frames").get_shape())
                self.actions: NDArray[np.float32] = file.get_tensor("actions")
                self.rewards: NDArray[np.float32] = file.get_tensor("rewards")
                self.successes: NDArray[np.bool_] = file.get_tensor("successes").astype(bool)
            except SafetensorError as error:
                raise DataError(f"{path}: {error}") from error
        if len(self.shape) != 4 or self.actions.ndim != 2 or self.shape[0] != len(self.actions) + 1:
            raise DataError(
                f"{path}: expected frames [T + 1, H, W, 3] and actions [T, A], got {list(self.shape)} and "
                f"{list(self.actions.shape)}; delete it or collect it again"
            )

    def __len__(self) -> int:
        return len(self.actions)

    def frames(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Frames ``start`` to ``stop``, uint8 ``[N, H, W, 3]``."""
        with self._open() as file:
            frames: NDArray[np.uint8] = file.get_slice("frames")[start : self.shape[0] if stop is None else stop]
        return frames

    def load(self) -> Episode:
        """The whole episode, checked."""
        return Episode(self.frames(), self.actions, self.rewards, self.successes, self.info)

    def _open(self) -> Any:
        try:
            return safe_open(self.path, "np")
        except (OSError, SafetensorError) as error:
            raise DataError(f"{self.path}: not a readable episode ({error}); delete it or collect it again") from error


def _episode_info(text: str, path: Path) -> EpisodeInfo:
    try:
        return from_dict(EpisodeInfo, parse_json(text, "info"), "info")
    except ConfigError as error:
        raise DataError(f"{path}: its metadata do not describe an episode ({error})") from error
