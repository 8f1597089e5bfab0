"""WorldModelState: B imagined histories between two steps."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldgym.errors import ConfigError
from worldgym.isolation import torch_defaults
from worldgym.tokenizer.base import ContextFeatures
from worldgym.transformer.cache import KeyValueCache

if TYPE_CHECKING:
    from worldgym.world_model.model import WorldModel

Rows = Sequence[int] | Tensor | NDArray[np.integer[Any]]
"""Numbers of rows of a batch."""
PER_ROW = (
    "frames",
    "uncertainty",
    "reanchored",
    "success_probability",
    "termination_probability",
    "reward_spread",
    "recent_codes",
    "recent_actions",
)
"""The attributes of a state that are tensors ``[B, ...]``."""


@dataclass(eq=False)
class WorldModelState:
    """B imagined histories. ``WorldModel.step`` changes it in place; call ``fork`` before to keep a copy.

    Attributes:
        frames: uint8 ``[B, C, H, W, 3]``, the last C frames, oldest first; for a goal-conditioned model the goal and
            the last C - 1. A new start would use them.
        uncertainty: float32 ``[B]``, of the newest frame: the error that the model expects of it, as the root of the
            mean squared difference to the true frame, from 0 to 1; without ``WorldModelConfig.frame_error`` the mean
            entropy of its tokens in nats. 0 before the first step.
        reanchored: bool ``[B]``, whether the row's position window was full before the last step, so that it slid, or
            the row was started anew from ``frames``; see ``WorldModelConfig.slides``.
        success_probability: float32 ``[B]``, that the task counts as solved at the newest frame; 0 before the first
            step, NaN if the model does not predict it.
        termination_probability: float32 ``[B]``, that the last step ended the episode; likewise.
        reward_spread: float32 ``[B]``, standard deviation of the predicted reward; 0 before the first step, NaN if the
            model predicts no distribution.
        recent_codes: int64 ``[B, k, n]``, of the newest frames, which stay when the window slides.
        recent_actions: float ``[B, k, A]``, that led to them.
        features: the tokenizer's features of the context.
        cache: the transformer's keys and values of context and imagined frames.
        model: the model that the state belongs to.
    """

    frames: Tensor
    uncertainty: Tensor
    reanchored: Tensor
    success_probability: Tensor
    termination_probability: Tensor
    reward_spread: Tensor
    recent_codes: Tensor
    recent_actions: Tensor
    features: ContextFeatures
    cache: KeyValueCache
    model: "WorldModel"

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def nbytes(self) -> int:
        """Bytes of cache, features and frames; what forks share is counted in each of them."""
        return self.cache.nbytes + self.features.nbytes + self.frames.nbytes

    @torch_defaults(grad=False)
    def select(self, rows: Rows) -> "WorldModelState":
        """A copy of some rows; an index may repeat."""
        chosen, index = self._indices(rows)
        return self._with(index, self.features.select(index), self.cache.select(chosen))

    @torch_defaults(grad=False)
    def put(self, rows: Rows, other: "WorldModelState") -> None:
        """Overwrite rows with the rows of ``other``, in place."""
        chosen, index = self._indices(rows)
        # Tensors that a caller has read from here must not change: only the cache is written in place.
        for name in PER_ROW:
            setattr(self, name, getattr(self, name).index_copy(0, index, getattr(other, name)))
        self.features = self.features.put(index, other.features)
        self.cache.put(chosen, other.cache)

    @torch_defaults(grad=False)
    def fork(self, count: int) -> "WorldModelState":
        """Repeat each row ``count`` times, side by side: ``[B * count]`` rows that continue independently.

        Rows share the features, keys and values of their common past.

        Raises:
            ConfigError: for a count below 1.
            OutOfMemory: before anything is allocated, if the copies do not fit.
        """
        if count < 1:
            raise ConfigError(f"fork: expected a number of copies of each row of at least 1, got {count}")
        self.model.memory_estimate.check(count * len(self), max(self.cache.remaining(), default=0), branch=True)
        _, index = self._indices([row for row in range(len(self)) for _ in range(count)])
        return self._with(index, self.features.fork(index), self.cache.fork(count))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file for :meth:`WorldModel.restore`.

        Raises:
            StorageError: if the file cannot be written.
        """
        from worldgym.world_model.state_file import save_state

        save_state(Path(path), self)

    def _with(self, index: Tensor, features: ContextFeatures, cache: KeyValueCache) -> "WorldModelState":
        """A state of some rows, whose features and cache are given."""
        rows = {name: getattr(self, name)[index] for name in PER_ROW}
        return WorldModelState(**rows, features=features, cache=cache, model=self.model)

    def _indices(self, rows: Rows) -> tuple[list[int], Tensor]:
        chosen = [int(row) for row in rows]
        return chosen, torch.tensor(chosen, dtype=torch.int64, device=self.frames.device)
