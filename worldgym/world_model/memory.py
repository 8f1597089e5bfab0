"""How much memory a world model needs, and errors before it runs out."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from worldgym.config import WorldModelConfig
from worldgym.devices import free_memory
from worldgym.errors import OutOfMemory

TOKENIZER_ROWS = 64  # frames that are encoded or decoded at once: more are no faster and take more memory
UNCHECKED_BYTES = 2**28  # batches that need less are not checked: finding the free memory takes too long for them


class Costs(NamedTuple):
    """Bytes needed."""

    row: int
    """By each row of the batch."""
    image: int
    """By each frame while it is encoded or decoded."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Estimates of the memory that a world model needs.

    Attributes:
        config: of the model.
        dtype: of the model's weights.
        device: of the model.
        peak_floats: values in memory at once while one frame is encoded or decoded.
        feature_values: values of the features of one context.
    """

    config: WorldModelConfig
    dtype: torch.dtype
    device: torch.device
    peak_floats: int
    feature_values: float

    def positions(self, horizon: int | None) -> int:
        """Capacity of a cache for ``horizon`` frames (None: the whole position window)."""
        window = self.config.transformer.max_positions
        return window if horizon is None else min(self.config.layout.length(horizon), window)

    def costs(self, positions: int, branch: bool = False) -> Costs:
        """Bytes for rows with a cache of ``positions``; for a branch only what it does not share."""
        config, size = self.config.transformer, self.dtype.itemsize
        row = 2 * config.layers * config.key_value_heads * positions * config.head_dim * size
        row += 2 * (self.config.context_length + 1) * 3 * self.config.resolution**2
        if not branch:
            row += int(self.feature_values * size)
            activations = 4 * (config.hidden_size + config.mlp_size)  # while the context is processed
            row += self.config.layout.prefix_length * activations * size
        return Costs(row, self.peak_floats * size)

    def needed(self, batch: int, costs: Costs) -> int:
        """Bytes for a batch."""
        return batch * costs.row + min(batch * self.config.context_length, TOKENIZER_ROWS) * costs.image

    def largest_batch(self, budget: int, costs: Costs) -> int:
        """The largest batch that needs at most ``budget`` bytes; 0 if not even one row fits."""
        small = budget // (costs.row + self.config.context_length * costs.image)
        large = (budget - TOKENIZER_ROWS * costs.image) // costs.row
        return max(small, large, 0)

    def chunk_size(self, rows: int, horizon: int, budget: int | None, branch: bool) -> int:
        """How many rows of a rollout to process at once.

        Args:
            rows: of the rollout.
            horizon: its number of frames.
            budget: bytes that may be used at once; None does not limit them.
            branch: whether all rows share one context.

        Raises:
            OutOfMemory: if not even one row fits the budget, or the chunk does not fit the free memory.
        """
        costs = self.costs(self.positions(horizon))
        size = rows if budget is None else min(rows, self.largest_batch(budget, costs))
        if size < 1:
            raise OutOfMemory(
                f"not even one row of {horizon} frames fits budget={budget} bytes; it takes {self.needed(1, costs)}"
            )
        self.check(size, self.positions(horizon) - branch * self.config.layout.prefix_length, branch)
        return size

    def check(self, batch: int, positions: int, branch: bool = False) -> None:
        """Raise OutOfMemory if a batch does not fit the free memory. Small batches are not checked."""
        costs = self.costs(positions, branch)
        needed = self.needed(batch, costs)
        if needed < UNCHECKED_BYTES or (free := free_memory(self.device)) is None or needed <= free:
            return
        raise OutOfMemory(
            f"a batch of {batch} needs about {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free on "
            f"{self.device}: at most {self.largest_batch(free, costs)} rows fit; rollout(..., budget=bytes) runs more "
            "of them in chunks"
        )
