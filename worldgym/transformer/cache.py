"""The key/value cache: what the transformer remembers of every row's past, so that a new position costs one position.

Rows of a batch may be at different positions, because the slots of a vector environment start at different times.
Where all rows are at the same one, reads and writes are plain slices.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from worldgym.config import TransformerConfig


class Place(NamedTuple):
    """Where one new position of every row lies: made once a position, used by every layer."""

    length: int
    """Positions to read: those of the longest row, the new one included."""
    rows: Tensor | None
    """int64 ``[B]``, 0 to B - 1; None where all rows are at the same position."""
    positions: Tensor | None
    """int64 ``[B]``, where each row writes; None where all rows are at the same position."""
    visible: Tensor | None
    """bool ``[B, 1, 1, length]``; None where all rows are at the same position."""


class KeyValueCache:
    """Keys and values ``[layers][B, K, P, E]``, how many of the P positions each row has filled, and ``travel``,
    float ``[B, A]``: the sum of the actions since the context.
    """

    def __init__(
        self,
        config: TransformerConfig,
        batch: int,
        positions: int | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        action_dim: int = 0,
    ) -> None:
        """Empty, for ``batch`` rows of at most ``positions`` (None: all that the transformer has)."""
        self.config = config
        self.capacity = config.max_positions if positions is None else positions
        self.lengths = [0] * batch
        self.travel = torch.zeros(batch, action_dim, device=device, dtype=dtype)
        shape = (batch, config.key_value_heads, self.capacity, config.head_dim)
        # Zeros, because masked positions still enter a product: whatever lies there must be finite.
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.layers)]

    @property
    def device(self) -> torch.device:
        return self.keys[0].device

    @property
    def even(self) -> bool:
        """Whether all rows are at the same position."""
        return len(set(self.lengths)) <= 1

    def room(self) -> list[int]:
        """Positions left in each row."""
        return [self.capacity - length for length in self.lengths]

    def positions(self, count: int) -> Tensor:
        """The next ``count`` positions, int64 ``[1, count]`` where all rows are even, else ``[B, count]``."""
        starts = self.lengths[:1] if self.even else self.lengths
        return torch.tensor(starts, device=self.device)[:, None] + torch.arange(count, device=self.device)

    def places(self, count: int) -> list[Place]:
        """The next ``count`` positions of every row, one by one, which thereby count as filled."""
        assert min(self.room()) >= count, "the caller makes room"
        longest = max(self.lengths)
        if self.even:
            places = [Place(longest + step + 1, None, None, None) for step in range(count)]
        else:
            rows = torch.arange(len(self.lengths), device=self.device)
            window = torch.arange(longest + count, device=self.device)
            columns = self.positions(count).unbind(1)
            visible = [(window <= column[:, None])[:, None, None] for column in columns]
            places = [
                Place(longest + step + 1, rows, column, visible[step][..., : longest + step + 1])
                for step, column in enumerate(columns)
            ]
        self.lengths = [length + count for length in self.lengths]
        return places

    def fill(self, layer: int, k_BKNE: Tensor, v_BKNE: Tensor) -> None:
        """Store the first N positions of an empty cache; :meth:`filled` then says how many they were."""
        self.keys[layer][:, :, : k_BKNE.shape[2]] = k_BKNE
        self.values[layer][:, :, : v_BKNE.shape[2]] = v_BKNE

    def filled(self, count: int) -> None:
        """All rows hold ``count`` positions."""
        self.lengths = [count] * len(self.lengths)

    def attend(self, layer: int, place: Place, q_BH1E: Tensor, k_BK1E: Tensor, v_BK1E: Tensor) -> Tensor:
        """Store one new position and let it look at itself and its past: ``[B, H, 1, E]``.

        The query heads that share a key/value head are passed as if they were that head's query positions: no key is
        repeated, and the CPU kernel, slow for single queries, sees several.
        """
        keys, values = self.keys[layer], self.values[layer]
        if place.rows is None or place.positions is None:
            keys[:, :, place.length - 1 : place.length] = k_BK1E
            values[:, :, place.length - 1 : place.length] = v_BK1E
        else:
            keys[place.rows, :, place.positions] = k_BK1E.squeeze(2)
            values[place.rows, :, place.positions] = v_BK1E.squeeze(2)
        q_BKGE = q_BH1E.reshape(q_BH1E.shape[0], keys.shape[1], -1, q_BH1E.shape[3])
        keys, values = keys[:, :, : place.length], values[:, :, : place.length]
        mixed = F.scaled_dot_product_attention(q_BKGE, keys, values, attn_mask=place.visible)
        return mixed.reshape(q_BH1E.shape)

    def select(self, rows: Sequence[int]) -> "KeyValueCache":
        """A copy of some rows, repeated where an index repeats."""
        chosen = KeyValueCache(
            self.config, len(rows), self.capacity, self.device, self.keys[0].dtype, self.travel.shape[1]
        )
        chosen.lengths = [self.lengths[row] for row in rows]
        used, index = max(chosen.lengths, default=0), torch.tensor(rows, dtype=torch.int64, device=self.device)
        for new, old in zip(chosen.keys + chosen.values, self.keys + self.values, strict=True):
            new[:, :, :used] = old[index, :, :used]
        chosen.travel = self.travel[index]
        return chosen

    def put(self, rows: Sequence[int], other: "KeyValueCache") -> None:
        """Overwrite rows with the rows of ``other``, in place."""
        used, index = max(other.lengths, default=0), torch.tensor(rows, dtype=torch.int64, device=self.device)
        assert len(rows) == len(other.lengths), "one row for each"
        assert used <= self.capacity, "the other cache's rows must fit"
        for old, new in zip(self.keys + self.values, other.keys + other.values, strict=True):
            old[index, :, :used] = new[:, :, :used]
        self.travel[index] = other.travel
        for row, length in zip(rows, other.lengths, strict=True):
            self.lengths[row] = length
