"""A whole frame as one CUDA graph: its thousands of small kernels start as one, without a word from the host between.

A graph repeats the kernels that were captured on the addresses they were captured with. So a frame is written here over
tensors of fixed shapes: every row reads the same window of positions, those ahead of it masked, and writes where a
tensor says. What it computes is what the plain path in ``imagine.py`` computes, which runs where no graph can be had or
``WORLDGYM_NATIVE=0`` is in the environment.
"""

import functools
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldgym.native import SWITCH, switched_off
from worldgym.transformer.cache import KeyValueCache, Prefix
from worldgym.transformer.llama import Transformer, rotary_tables
from worldgym.transformer.decoding.eager import Drawn, draw_codes

WINDOW = 128  # positions in which windows grow: a narrower step means more captures, a wider one more masked reads
LIMIT = 32  # graphs of one transformer; the one that was not used for longest goes first


class Branches:
    """How B rows look at the R rows of a shared past without a copy for each.

    The branches of one shared row are passed as if they were query positions of that row: M of them, the most that any
    row has; what is missing is filled up and thrown away again.
    """

    def __init__(self, prefix: Prefix, device: torch.device) -> None:
        members: list[list[int]] = [[] for _ in prefix.lengths]
        for branch, row in enumerate(prefix.rows):
            members[row].append(branch)
        self.shared, self.most, self.longest = len(members), max(map(len, members)), max(prefix.own())
        self.lengths = torch.tensor(prefix.own(), device=device)
        order = [branch for each in members for branch in [*each, *[0] * (self.most - len(each))]]
        places = {
            branch: row * self.most + place for row, each in enumerate(members) for place, branch in enumerate(each)
        }
        back = [places[branch] for branch in range(len(places))]
        # A fork leaves equally many branches of every row, side by side: then nothing has to be moved.
        moved = order != list(range(len(order)))
        self._moves = [torch.tensor(index, device=device) for index in (order, back)] if moved else None

    def group(self, x_BKGX: Tensor) -> Tensor:
        """``[B, K, G, X]`` to ``[R, K, M * G, X]``."""
        x_BKGX = x_BKGX if self._moves is None else x_BKGX[self._moves[0]]
        return torch.unflatten(x_BKGX, 0, (self.shared, self.most)).transpose(1, 2).flatten(2, 3)

    def ungroup(self, x_RKMX: Tensor) -> Tensor:
        """Inverse of :meth:`group`."""
        x_BKGX = torch.unflatten(x_RKMX, 2, (self.most, -1)).transpose(1, 2).flatten(0, 1)
        return x_BKGX if self._moves is None else x_BKGX[self._moves[1]]


class Frame:
    """One frame over static shapes: inputs at addresses of their own, and what is computed from them.

    It holds neither the model nor the cache, so that it keeps no memory of theirs.
    """

    def __init__(
        self, transformer: Transformer, cache: KeyValueCache, window: int, temperature: float, top_k: int
    ) -> None:
        batch, device = len(cache.lengths), cache.device
        self.window, self.temperature, self.top_k = window, temperature, top_k
        self.slots = torch.zeros(batch, transformer.config.hidden_size, device=device, dtype=cache.dtype)
        self.uniforms = torch.zeros(batch, transformer.layout.tokens_per_frame, device=device)
        self.starts = torch.zeros(batch, dtype=torch.int64, device=device)
        self.branches = None if cache.prefix is None else Branches(cache.prefix, device)
        self.rotary = rotary_tables(torch.arange(cache.capacity, device=device), transformer.config, cache.dtype)
        self.graph: Any = None
        self.drawn: Drawn | None = None

    def give(self, slots_BD: Tensor, uniforms: Tensor, starts: Sequence[int]) -> None:
        """Put in place what this frame starts from; ``starts``: where in its own storage each row goes on."""
        self.slots.copy_(slots_BD)
        self.uniforms.copy_(uniforms)
        pinned = self.starts.is_cuda  # such memory is copied without waiting for the device
        self.starts.copy_(torch.tensor(starts, pin_memory=pinned), non_blocking=True)

    def compute(self, transformer: Transformer, cache: KeyValueCache) -> Drawn:
        """The frame, in operations that a graph can hold."""
        device = self.starts.device
        columns_BN = self.starts[:, None] + torch.arange(transformer.layout.step_length, device=device)
        positions_BN = columns_BN if self.branches is None else columns_BN + self.branches.lengths[:, None]
        cosines, sines = (table[positions_BN] for table in self.rotary)
        biases, rows = self._biases(columns_BN), torch.arange(len(self.slots), device=device)

        def attend(layer: int, step: int, q_BH1E: Tensor, k_BK1E: Tensor, v_BK1E: Tensor) -> Tensor:
            cache.keys[layer][rows, :, columns_BN[:, step]] = k_BK1E.squeeze(2)
            cache.values[layer][rows, :, columns_BN[:, step]] = v_BK1E.squeeze(2)
            return self._attend(cache, layer, q_BH1E, biases[:, None, step : step + 1])

        how = self.temperature, self.top_k
        return draw_codes(transformer, self.slots, self.uniforms, (cosines, sines), attend, *how)

    def _biases(self, columns_BN: Tensor) -> Tensor:
        """What is added to the attention's logits, ``[B, N, shared + window]``: -inf where a row must not look."""
        device = columns_BN.device
        hidden = torch.arange(self.window, device=device) > columns_BN[..., None]
        dtype = self.slots.dtype
        if self.branches is not None:
            beyond = torch.arange(self.branches.longest, device=device) >= self.branches.lengths[:, None]
            hidden = torch.cat([beyond[:, None].expand(-1, hidden.shape[1], -1), hidden], dim=-1)
            dtype = torch.promote_types(dtype, torch.float32)  # the sum of both parts' logits is then no less
        return torch.zeros(hidden.shape, device=device, dtype=dtype).masked_fill(hidden, float("-inf"))

    def _attend(self, cache: KeyValueCache, layer: int, q_BH1E: Tensor, bias_B11S: Tensor) -> Tensor:
        """As :meth:`KeyValueCache.attend` does it, ``[B, H, 1, E]``."""
        keys, values = (part[layer][:, :, : self.window] for part in (cache.keys, cache.values))
        q_BKGE = q_BH1E.reshape(q_BH1E.shape[0], keys.shape[1], -1, q_BH1E.shape[3])
        if self.branches is None or cache.prefix is None:
            mixed = F.scaled_dot_product_attention(q_BKGE, keys, values, attn_mask=bias_B11S)
            return mixed.reshape(q_BH1E.shape)
        group, ungroup, longest = self.branches.group, self.branches.ungroup, self.branches.longest
        old_keys, old_values = (part[layer][:, :, :longest] for part in (cache.prefix.keys, cache.prefix.values))
        logits = torch.cat([ungroup(group(q_BKGE) @ old_keys.mT), q_BKGE @ keys.mT], dim=-1)
        share = torch.add(bias_B11S, logits, alpha=q_BH1E.shape[3] ** -0.5).softmax(dim=-1).to(values.dtype)
        mixed = ungroup(group(share[..., :longest]) @ old_values) + share[..., longest:] @ values
        return mixed.reshape(q_BH1E.shape)


class Graphs:
    """The frames of one transformer that were captured, by all that they depend on.

    They belong to addresses, not to a cache: a rollout makes a new cache for itself, and PyTorch's allocator mostly
    gives it the very memory that the last one of its size left. A cache that moves (``put`` after a fork, ``join``) or
    weights that do (``to``) are others; weights that learn in place, and rows that are put in place, are the same.
    """

    def __init__(self) -> None:
        self._frames: OrderedDict[Hashable, Frame | None] = OrderedDict()

    def find(self, key: Hashable, make: Callable[[], Frame]) -> Frame | None:
        """The frame for a key from the second time on that it is asked for.

        A capture takes as long as two or three plain frames: memory that is never met again shall not pay for it.
        """
        met, frame = key in self._frames, self._frames.pop(key, None)
        if met and frame is None:
            frame = make()
        self._frames[key] = frame
        if len(self._frames) > LIMIT:
            self._frames.popitem(last=False)
        return frame


_graphs: WeakKeyDictionary[Transformer, Graphs] = WeakKeyDictionary()
_captured: WeakKeyDictionary[Any, torch.device] = WeakKeyDictionary()  # all live graphs
_torn: list[Frame] = []  # whose capture failed, so that there are no more; kept, as PyTorch's allocator may ask them


@torch.inference_mode()
def imagine_codes(
    transformer: Transformer,
    cache: KeyValueCache,
    slots_BD: Tensor,
    uniforms: Tensor,
    temperature: float,
    top_k: int,
) -> Drawn | None:
    """All positions of one frame from the slots' embeddings; None where the plain path is to be taken."""
    if _torn or not _usable(transformer, cache):
        return None
    count = transformer.layout.step_length
    assert len(slots_BD) == len(uniforms) == len(cache.lengths), "one slot and its uniforms a row"
    assert min(cache.room()) >= count, "the caller makes room"
    starts = cache.own_lengths()
    window = min(-(-(max(starts) + count) // WINDOW) * WINDOW, cache.keys[0].shape[2])
    about = window, temperature, top_k
    key = (*about, *_addresses(transformer, cache))
    frame = _graphs.setdefault(transformer, Graphs()).find(key, lambda: Frame(transformer, cache, *about))
    if frame is None:
        return None
    frame.give(slots_BD, uniforms, starts)
    if frame.drawn is None:
        try:
            frame.drawn = _capture(frame, functools.partial(frame.compute, transformer, cache))
        except RuntimeError as error:
            _torn.append(frame)
            cause = error.__context__ or error  # what broke the capture, not that its end found it broken
            reason = (str(cause).splitlines() or [type(cause).__name__])[0]
            print(
                f"worldgym: imagining without CUDA graphs, several times slower: {reason}; {SWITCH}=0 silences this",
                file=sys.stderr,
            )
            return None
    frame.graph.replay()
    cache.filled_more(count)
    return Drawn(*(tensor.clone() for tensor in frame.drawn))


def _usable(transformer: Transformer, cache: KeyValueCache) -> bool:
    if cache.device.type != "cuda" or switched_off():
        return False
    weight = transformer.llm.lm_head.weight
    return (cache.device, cache.dtype) == (weight.device, weight.dtype) and not torch.is_autocast_enabled("cuda")


def _addresses(transformer: Transformer, cache: KeyValueCache) -> Iterator[Hashable]:
    """Everything that a graph has within it and that may be another one for the next frame."""
    tensors = [*_weights(transformer), *cache.keys, *cache.values]
    yield cache.capacity, cache.keys[0].shape
    if cache.prefix is not None:
        tensors += cache.prefix.keys + cache.prefix.values
        yield cache.prefix.keys[0].shape, tuple(cache.prefix.lengths), tuple(cache.prefix.rows)
    yield from ((tensor.data_ptr(), tensor.dtype) for tensor in tensors)


def _weights(module: nn.Module) -> Iterator[Tensor]:
    """``module.parameters()`` in a fraction of its time, as it is asked for every frame."""
    yield from (weight for weight in module._parameters.values() if weight is not None)
    for child in module._modules.values():
        if child is not None:
            yield from _weights(child)


def _capture(frame: Frame, work: Callable[[], Drawn]) -> Drawn:
    """Make the graph of ``work``; the tensors that it fills whenever it is replayed.

    Warming up writes to the cache what the frame is about to write there anyway, at the starts that were just given.
    The first replay has to draw what the warming up drew: RuntimeError where it does not.

    Graphs share the memory for what lies in between: no two run at once, and what one draws is copied out before the
    next. The matrix library's work space has to lie there as well. PyTorch keeps one for each stream and takes it back
    as soon as any graph of that stream goes (pytorch/pytorch#193402), and what others may get then must not be written
    to by the graphs that remain. So their stream is for captures alone; the warming up is not done there.
    """
    frame.graph, device = torch.cuda.CUDAGraph(), frame.slots.device
    pool = next((other.pool() for other, where in _captured.items() if where == device), None)
    with torch.cuda.device(device):
        expected = work()  # libraries set themselves up when first called, which is not allowed while capturing
        stream = _capture_stream(device)
        capture = torch.cuda.graph(frame.graph, pool=pool, stream=stream, capture_error_mode="thread_local")
        with torch.cuda.stream(stream), capture:  # which by itself would not leave the stream where it fails
            drawn = work()
        frame.graph.replay()
    _captured[frame.graph] = device
    if not torch.equal(drawn.codes, expected.codes):
        raise RuntimeError("a captured frame drew other codes than the same frame before")
    return drawn


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
