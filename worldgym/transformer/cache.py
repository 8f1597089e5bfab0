"""The key/value cache: what the transformer remembers of every row's past, so that a new position costs one position.

Rows of a batch may be at different positions, because the slots of a vector environment start at different times.
Where all rows are at the same one, reads and writes are plain slices. Rows that branched off one past share its keys
and values and hold only what came after.
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
    """Positions of its own to read: those of the longest row, the new one included."""
    rows: Tensor | None
    """int64 ``[B]``, 0 to B - 1; None where all rows are at the same position."""
    positions: Tensor | None
    """int64 ``[B]``, where each row writes; None where all rows are at the same position."""
    visible: Tensor | None
    """bool ``[B, 1, 1, shared + length]``; None where all rows are at the same position."""


class Prefix(NamedTuple):
    """A past that several rows share. Nobody writes to its first ``lengths`` positions any more."""

    keys: list[Tensor]
    values: list[Tensor]
    lengths: list[int]
    """Positions filled in each of its R rows."""
    rows: list[int]
    """Which of the R rows each of the B rows came from."""

    def own(self) -> list[int]:
        """Positions that each of the B rows shares."""
        return [self.lengths[row] for row in self.rows]


class KeyValueCache:
    """Keys and values ``[layers][B, K, P, E]``, how many positions each row has filled, and ``travel``,
    float ``[B, A]``: the sum of the actions since the context.

    ``prefix`` holds the positions that were there before a fork; then ``keys`` and ``values`` hold those behind it.
    """

    def __init__(
        self,
        config: TransformerConfig,
        batch: int,
        positions: int | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        action_dim: int = 0,
        prefix: Prefix | None = None,
    ) -> None:
        """Empty, for ``batch`` rows of at most ``positions`` (None: all that the transformer has), shared ones
        included.
        """
        self.config = config
        self.capacity = config.max_positions if positions is None else positions
        self.prefix = prefix
        self.lengths = [0] * batch if prefix is None else prefix.own()
        self.travel = torch.zeros(batch, action_dim, device=device, dtype=dtype)
        own = self.capacity - min(self.lengths, default=0)
        shape = (batch, config.key_value_heads, own, config.head_dim)
        # Zeros, because masked positions still enter a product: whatever lies there must be finite.
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.layers)]
        self._lent = False

    @property
    def device(self) -> torch.device:
        return self.keys[0].device

    @property
    def dtype(self) -> torch.dtype:
        return self.keys[0].dtype

    @property
    def even(self) -> bool:
        """Whether all rows are at the same position."""
        return len(set(self.lengths)) <= 1

    @property
    def nbytes(self) -> int:
        """What keys and values take, those of a shared past included."""
        held = self.keys + self.values
        if self.prefix is not None:
            held = held + self.prefix.keys + self.prefix.values
        return sum(tensor.nbytes for tensor in held)

    def room(self) -> list[int]:
        """Positions left in each row."""
        return [self.capacity - length for length in self.lengths]

    def own_lengths(self) -> list[int]:
        """Positions filled in each row behind its shared past."""
        shared = [0] * len(self.lengths) if self.prefix is None else self.prefix.own()
        return [length - before for length, before in zip(self.lengths, shared, strict=True)]

    def positions(self, count: int) -> Tensor:
        """The next ``count`` positions, int64 ``[1, count]`` where all rows are even, else ``[B, count]``."""
        starts = self.lengths[:1] if self.even else self.lengths
        return torch.tensor(starts, device=self.device)[:, None] + torch.arange(count, device=self.device)

    def places(self, count: int) -> list[Place]:
        """The next ``count`` positions of every row, one by one, which thereby count as filled."""
        assert min(self.room()) >= count, "the caller makes room"
        own = self.own_lengths()
        longest = max(own)
        if self.even and len(set(own)) == 1:
            places = [Place(longest + step + 1, None, None, None) for step in range(count)]
        else:
            rows = torch.arange(len(own), device=self.device)
            window = torch.arange(longest + count, device=self.device)
            columns = (torch.tensor(own, device=self.device)[:, None] + window[:count]).unbind(1)
            shared = self._shared_visible()
            places = []
            for step, column in enumerate(columns):
                visible = (window[: longest + step + 1] <= column[:, None])[:, None, None]
                visible = visible if shared is None else torch.cat([shared, visible], dim=-1)
                places.append(Place(longest + step + 1, rows, column, visible))
        self.filled_more(count)
        return places

    def filled_more(self, count: int) -> None:
        """Every row holds ``count`` positions more."""
        self.lengths = [length + count for length in self.lengths]

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
        if self.prefix is not None:  # one layer's copy at a time
            index, longest = self._index(self.prefix.rows), max(self.prefix.own())
            keys = torch.cat([self.prefix.keys[layer][index, :, :longest], keys], dim=2)
            values = torch.cat([self.prefix.values[layer][index, :, :longest], values], dim=2)
        mixed = F.scaled_dot_product_attention(q_BKGE, keys, values, attn_mask=place.visible)
        return mixed.reshape(q_BH1E.shape)

    def fork(self, count: int) -> "KeyValueCache":
        """Each row ``count`` times side by side: ``[B * count]`` rows that share the past up to here.

        This cache may go on as well: it appends behind what it lent, and copies before it would overwrite.
        """
        self.join()
        self._lent = True
        rows = [row for row in range(len(self.lengths)) for _ in range(count)]
        prefix = Prefix(self.keys, self.values, list(self.lengths), rows)
        forked = self._like(len(rows), prefix)
        forked.travel = self.travel[torch.tensor(rows, dtype=torch.int64, device=self.device)]
        return forked

    def select(self, rows: Sequence[int]) -> "KeyValueCache":
        """A copy of some rows, repeated where an index repeats; a shared past stays shared."""
        prefix = self.prefix
        if prefix is not None:
            prefix = prefix._replace(rows=[prefix.rows[row] for row in rows])
        chosen = self._like(len(rows), prefix)
        own = self.own_lengths()
        used, index = max((own[row] for row in rows), default=0), self._index(rows)
        for new, old in zip(chosen.keys + chosen.values, self.keys + self.values, strict=True):
            new[:, :, :used] = old[index, :, :used]
        chosen.lengths = [self.lengths[row] for row in rows]
        chosen.travel = self.travel[index]
        return chosen

    def put(self, rows: Sequence[int], other: "KeyValueCache") -> None:
        """Overwrite rows with the rows of ``other``, in place."""
        self.join()
        other.join()
        if self._lent:  # forks still read what stands here
            self.keys, self.values = [[tensor.clone() for tensor in part] for part in (self.keys, self.values)]
            self._lent = False
        used, index = max(other.lengths, default=0), self._index(rows)
        assert len(rows) == len(other.lengths), "one row for each"
        assert used <= self.capacity, "the other cache's rows must fit"
        for old, new in zip(self.keys + self.values, other.keys + other.values, strict=True):
            old[index, :, :used] = new[:, :, :used]
        self.travel[index] = other.travel
        for row, length in zip(rows, other.lengths, strict=True):
            self.lengths[row] = length

    def join(self) -> None:
        """Copy a shared past into every row, so that each holds all of its own."""
        prefix = self.prefix
        if prefix is None:
            return
        joined = self._like(len(self.lengths), None)
        for row, (length, before) in enumerate(zip(self.lengths, prefix.own(), strict=True)):
            for new, past, own in zip(
                joined.keys + joined.values, prefix.keys + prefix.values, self.keys + self.values, strict=True
            ):
                new[row, :, :before] = past[prefix.rows[row], :, :before]
                new[row, :, before:length] = own[row, :, : length - before]
        self.keys, self.values, self.prefix = joined.keys, joined.values, None

    def _like(self, batch: int, prefix: Prefix | None) -> "KeyValueCache":
        """An empty one of the same kind."""
        return KeyValueCache(self.config, batch, self.capacity, self.device, self.dtype, self.travel.shape[1], prefix)

    def _index(self, rows: Sequence[int]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=self.device)

    def _shared_visible(self) -> Tensor | None:
        """bool ``[B, 1, 1, longest shared]``: which shared positions each row may look at."""
        if self.prefix is None:
            return None
        shared = self.prefix.own()
        window = torch.arange(max(shared), device=self.device)
        return (window < self._index(shared)[:, None])[:, None, None]
