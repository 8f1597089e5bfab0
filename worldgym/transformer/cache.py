"""The key/value cache of the transformer.

Rows of a batch may be at different positions, because the environments of a vector environment start at different
times. If all rows are at the same one, reads and writes are plain slices. Rows that were forked from one past share its
keys and values and store only what came after.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from worldgym.config import TransformerConfig
from worldgym.errors import InvalidBuffer


class CachePosition(NamedTuple):
    """Where one new position of every row is stored. Computed once per position and used by every layer."""

    length: int
    """Number of stored positions to read, without the shared ones: those of the longest row, the new one included."""
    rows: Tensor | None
    """int64 ``[B]``, 0 to B - 1; None if all rows are at the same position."""
    positions: Tensor | None
    """int64 ``[B]``, where each row writes; None if all rows are at the same position."""
    visible: Tensor | None
    """bool ``[B, 1, 1, shared + length]``, the attention mask; None if all rows are at the same position."""


class Prefix(NamedTuple):
    """A past that several rows share. Its first ``lengths`` positions are never written again."""

    keys: list[Tensor]
    values: list[Tensor]
    lengths: list[int]
    """Positions filled in each of its R rows."""
    rows: list[int]
    """Which of the R rows each of the B rows shares."""

    def shared_lengths(self) -> list[int]:
        """Number of positions that each of the B rows shares."""
        return [self.lengths[row] for row in self.rows]


class KeyValueCache:
    """Keys and values of the positions that the transformer has processed.

    Args:
        config: sizes of the transformer.
        batch: number of rows, B.
        positions: capacity of each row, shared positions included; None is all that the transformer has.
        device: of all tensors.
        dtype: of keys, values and cumulative actions.
        action_dim: A.
        prefix: a past that the rows share.

    Attributes:
        keys: ``[layers][B, K, P, E]``, without the shared positions.
        values: likewise.
        lengths: positions filled in each row, shared ones included.
        cumulative_action: float ``[B, A]``, sum of the actions of the future frames.
    """

    def __init__(
        self,
        config: TransformerConfig,
        batch: int,
        positions: int | None = None,
        *,
        device: torch.device,
        dtype: torch.dtype,
        action_dim: int = 0,
        prefix: Prefix | None = None,
    ) -> None:
        self.config = config
        self.capacity = config.max_positions if positions is None else positions
        self.prefix = prefix
        self.lengths = [0] * batch if prefix is None else prefix.shared_lengths()
        self.cumulative_action = torch.zeros(batch, action_dim, device=device, dtype=dtype)
        own = self.capacity - min(self.lengths, default=0)
        shape = (batch, config.key_value_heads, own, config.head_dim)
        # Zeros, because masked positions still enter a product, and must therefore be finite.
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.layers)]
        self._is_shared = False

    @property
    def device(self) -> torch.device:
        return self.keys[0].device

    @property
    def dtype(self) -> torch.dtype:
        return self.keys[0].dtype

    @property
    def aligned(self) -> bool:
        """Whether all rows are at the same position."""
        return len(set(self.lengths)) <= 1

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, those of a shared past included."""
        tensors = self.keys + self.values
        if self.prefix is not None:
            tensors = tensors + self.prefix.keys + self.prefix.values
        return sum(tensor.nbytes for tensor in tensors)

    def remaining(self) -> list[int]:
        """Number of free positions in each row."""
        return [self.capacity - length for length in self.lengths]

    def check_remaining(self, count: int) -> None:
        """Raise InvalidBuffer unless every row has ``count`` free positions."""
        least = min(self.remaining(), default=count)
        if least < count:
            raise InvalidBuffer(
                f"key/value cache: expected {count} free positions in every row, got {least} of {self.capacity}: "
                "start the row anew"
            )

    def own_lengths(self) -> list[int]:
        """Number of positions filled in each row, without the shared ones."""
        shared = [0] * len(self.lengths) if self.prefix is None else self.prefix.shared_lengths()
        return [length - before for length, before in zip(self.lengths, shared, strict=True)]

    def positions(self, count: int) -> Tensor:
        """The next ``count`` positions, int64 ``[1, count]`` if all rows are at the same one, else ``[B, count]``."""
        starts = self.lengths[:1] if self.aligned else self.lengths
        return self._index(starts)[:, None] + torch.arange(count, device=self.device)

    def reserve(self, count: int) -> list[CachePosition]:
        """The next ``count`` positions of every row, which count as filled from now on."""
        self.check_remaining(count)
        own = self.own_lengths()
        longest = max(own)
        if self.aligned and len(set(own)) == 1:
            reserved = [CachePosition(longest + step + 1, None, None, None) for step in range(count)]
        else:
            rows = torch.arange(len(own), device=self.device)
            window = torch.arange(longest + count, device=self.device)
            columns = (self._index(own)[:, None] + window[:count]).unbind(1)
            shared = self._shared_visible()
            reserved = []
            for step, column in enumerate(columns):
                visible = (window[: longest + step + 1] <= column[:, None])[:, None, None]
                visible = visible if shared is None else torch.cat([shared, visible], dim=-1)
                reserved.append(CachePosition(longest + step + 1, rows, column, visible))
        self.advance(count)
        return reserved

    def advance(self, count: int) -> None:
        """Count ``count`` more positions of every row as filled."""
        self.lengths = [length + count for length in self.lengths]

    def fill(self, layer: int, k_BKNE: Tensor, v_BKNE: Tensor) -> None:
        """Store the first N positions of an empty cache; then set the number with :meth:`set_filled`."""
        self.keys[layer][:, :, : k_BKNE.shape[2]] = k_BKNE
        self.values[layer][:, :, : v_BKNE.shape[2]] = v_BKNE

    def extend(self, layer: int, filled: int, k_BKNE: Tensor, v_BKNE: Tensor) -> tuple[Tensor, Tensor]:
        """Store N positions after the first ``filled`` ones, in a cache without a shared past.

        Returns:
            Keys and values of all these positions, ``[B, K, filled + N, E]``.
        """
        end = filled + k_BKNE.shape[2]
        self.keys[layer][:, :, filled:end] = k_BKNE
        self.values[layer][:, :, filled:end] = v_BKNE
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def set_filled(self, count: int) -> None:
        """Count the first ``count`` positions of every row as filled."""
        self.lengths = [count] * len(self.lengths)

    def attend(self, layer: int, position: CachePosition, q_BH1E: Tensor, k_BK1E: Tensor, v_BK1E: Tensor) -> Tensor:
        """Store one new position and compute its attention to itself and its past, ``[B, H, 1, E]``.

        The query heads that share a key/value head are passed as query positions of that head. So no key is repeated,
        and the CPU kernel, which is slow for single queries, gets several.
        """
        keys, values = self.keys[layer], self.values[layer]
        if position.rows is None or position.positions is None:
            keys[:, :, position.length - 1 : position.length] = k_BK1E
            values[:, :, position.length - 1 : position.length] = v_BK1E
        else:
            keys[position.rows, :, position.positions] = k_BK1E.squeeze(2)
            values[position.rows, :, position.positions] = v_BK1E.squeeze(2)
        q_BKGE = q_BH1E.reshape(q_BH1E.shape[0], keys.shape[1], -1, q_BH1E.shape[3])
        keys, values = keys[:, :, : position.length], values[:, :, : position.length]
        if self.prefix is not None:  # copies one layer at a time
            index, longest = self._index(self.prefix.rows), max(self.prefix.shared_lengths())
            keys = torch.cat([self.prefix.keys[layer][index, :, :longest], keys], dim=2)
            values = torch.cat([self.prefix.values[layer][index, :, :longest], values], dim=2)
        mixed = F.scaled_dot_product_attention(q_BKGE, keys, values, attn_mask=position.visible)
        return mixed.reshape(q_BH1E.shape)

    def fork(self, count: int) -> "KeyValueCache":
        """Repeat each row ``count`` times, side by side: ``[B * count]`` rows that share the past up to here.

        This cache stays usable: it appends after the shared positions, and copies them before it would overwrite them.
        """
        self.unshare()
        self._is_shared = True
        rows = [row for row in range(len(self.lengths)) for _ in range(count)]
        prefix = Prefix(self.keys, self.values, list(self.lengths), rows)
        forked = self._like(len(rows), prefix)
        forked.cumulative_action = self.cumulative_action[self._index(rows)]
        return forked

    def select(self, rows: Sequence[int]) -> "KeyValueCache":
        """A copy of some rows; an index may repeat. A shared past stays shared."""
        prefix = self.prefix
        if prefix is not None:
            prefix = prefix._replace(rows=[prefix.rows[row] for row in rows])
        chosen = self._like(len(rows), prefix)
        own = self.own_lengths()
        used, index = max((own[row] for row in rows), default=0), self._index(rows)
        for new, old in zip(chosen.keys + chosen.values, self.keys + self.values, strict=True):
            new[:, :, :used] = old[index, :, :used]
        chosen.lengths = [self.lengths[row] for row in rows]
        chosen.cumulative_action = self.cumulative_action[index]
        return chosen

    def put(self, rows: Sequence[int], other: "KeyValueCache") -> None:
        """Overwrite rows with the rows of ``other``, in position."""
        self.unshare()
        other.unshare()
        if self._is_shared:  # forks still read these tensors
            self.keys, self.values = [[tensor.clone() for tensor in part] for part in (self.keys, self.values)]
            self._is_shared = False
        used, index = max(other.lengths, default=0), self._index(rows)
        assert len(rows) == len(other.lengths), "expected one row for each"
        assert used <= self.capacity, "expected rows that fit the capacity"
        for old, new in zip(self.keys + self.values, other.keys + other.values, strict=True):
            old[index, :, :used] = new[:, :, :used]
        self.cumulative_action[index] = other.cumulative_action
        for row, length in zip(rows, other.lengths, strict=True):
            self.lengths[row] = length

    def unshare(self) -> None:
        """Copy a shared past into every row."""
        prefix = self.prefix
        if prefix is None:
            return
        unshared = self._like(len(self.lengths), None)
        for row, (length, before) in enumerate(zip(self.lengths, prefix.shared_lengths(), strict=True)):
            for new, past, own in zip(
                unshared.keys + unshared.values, prefix.keys + prefix.values, self.keys + self.values, strict=True
            ):
                new[row, :, :before] = past[prefix.rows[row], :, :before]
                new[row, :, before:length] = own[row, :, : length - before]
        self.keys, self.values, self.prefix = unshared.keys, unshared.values, None

    def _like(self, batch: int, prefix: Prefix | None) -> "KeyValueCache":
        """An empty cache of the same kind."""
        return KeyValueCache(
            self.config,
            batch,
            self.capacity,
            device=self.device,
            dtype=self.dtype,
            action_dim=self.cumulative_action.shape[1],
            prefix=prefix,
        )

    def _index(self, rows: Sequence[int]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=self.device)

    def _shared_visible(self) -> Tensor | None:
        """bool ``[B, 1, 1, longest shared]``: which shared positions each row attends to."""
        if self.prefix is None:
            return None
        shared = self.prefix.shared_lengths()
        window = torch.arange(max(shared), device=self.device)
        return (window < self._index(shared)[:, None])[:, None, None]
