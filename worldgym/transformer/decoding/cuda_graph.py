"""The codes of one frame as a CUDA graph: thousands of small kernels start with one call from the host.

A graph repeats captured kernels on the addresses they were captured with. So the computation is written here over
tensors of fixed shapes: every row reads the same window of positions, in which later ones are masked, and writes to a
position that a tensor gives. The result is that of ``eager.py``, which runs if no graph can be captured or if
``WORLDGYM_NATIVE=0`` is in the environment.
"""

import functools
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldgym.isolation import torch_defaults
from worldgym.native import SWITCH, switched_off
from worldgym.transformer.cache import KeyValueCache, Prefix
from worldgym.transformer.decoding.eager import SampledCodes, process_positions
from worldgym.transformer.llama import rotary_tables
from worldgym.transformer.transformer import Transformer

WINDOW = (
    128  # windows are multiples of this: with a smaller one there are more captures, with a larger one more masking
)
LIMIT = 32  # graphs of one transformer; the least recently used one is dropped first


class Branches:
    """Attention of B rows to the R rows of a shared past, without a copy for each.

    The branches of one shared row are passed as query positions of that row: M of them, the most that any row has.
    Rows with fewer branches are padded.
    """

    def __init__(self, prefix: Prefix, device: torch.device) -> None:
        members: list[list[int]] = [[] for _ in prefix.lengths]
        for branch, row in enumerate(prefix.rows):
            members[row].append(branch)
        self.shared, self.most, self.longest = len(members), max(map(len, members)), max(prefix.shared_lengths())
        self.lengths = torch.tensor(prefix.shared_lengths(), dtype=torch.int64, device=device)
        order = [branch for each in members for branch in [*each, *[0] * (self.most - len(each))]]
        columns = {
            branch: row * self.most + column for row, each in enumerate(members) for column, branch in enumerate(each)
        }
        inverse = [columns[branch] for branch in range(len(columns))]
        self._order = self._inverse = None
        if order != list(range(len(order))):  # fork() leaves the same number of branches of every row, side by side
            self._order = torch.tensor(order, dtype=torch.int64, device=device)
            self._inverse = torch.tensor(inverse, dtype=torch.int64, device=device)

    def group(self, x_BKGX: Tensor) -> Tensor:
        """``[B, K, G, X]`` to ``[R, K, M * G, X]``."""
        x_BKGX = x_BKGX if self._order is None else x_BKGX[self._order]
        return torch.unflatten(x_BKGX, 0, (self.shared, self.most)).transpose(1, 2).flatten(2, 3)

    def ungroup(self, x_RKMX: Tensor) -> Tensor:
        """Inverse of :meth:`group`."""
        x_BKGX = torch.unflatten(x_RKMX, 2, (self.most, -1)).transpose(1, 2).flatten(0, 1)
        return x_BKGX if self._inverse is None else x_BKGX[self._inverse]


class StaticDecode:
    """The computation over fixed shapes, with inputs at fixed addresses.

    It references neither the model nor the cache, so that their memory can be freed.
    """

    def __init__(
        self, transformer: Transformer, cache: KeyValueCache, window: int, temperature: float, top_k: int
    ) -> None:
        batch, device = len(cache.lengths), cache.device
        self.window, self.temperature, self.top_k = window, temperature, top_k
        self.slots = torch.zeros(batch, transformer.config.hidden_size, device=device, dtype=cache.dtype)
        self.uniforms = torch.zeros(batch, transformer.layout.tokens_per_frame, device=device, dtype=torch.float32)
        self.starts = torch.zeros(batch, dtype=torch.int64, device=device)
        self.branches = None if cache.prefix is None else Branches(cache.prefix, device)
        self.rotary = rotary_tables(torch.arange(cache.capacity, device=device), transformer.config, cache.dtype)
        self.graph: Any = None
        self.sampled: SampledCodes | None = None

    def set_inputs(self, slots_BD: Tensor, uniforms: Tensor, starts: Sequence[int]) -> None:
        """Copy the inputs of a frame; ``starts``: where in its own storage each row writes first."""
        self.slots.copy_(slots_BD)
        self.uniforms.copy_(uniforms)
        pinned = self.starts.is_cuda  # pinned memory is copied without waiting for the device
        host = torch.tensor(starts, dtype=torch.int64, device="cpu", pin_memory=pinned)
        self.starts.copy_(host, non_blocking=True)

    def compute(self, transformer: Transformer, cache: KeyValueCache) -> SampledCodes:
        """Process the frame's positions, in operators that can be captured."""
        device = self.starts.device
        columns_BN = self.starts[:, None] + torch.arange(transformer.layout.step_length, device=device)
        positions_BN = columns_BN if self.branches is None else columns_BN + self.branches.lengths[:, None]
        cosines, sines = (table[positions_BN] for table in self.rotary)
        biases, rows = self._biases(columns_BN), torch.arange(len(self.slots), device=device)

        def attend(layer: int, offset: int, q_BH1E: Tensor, k_BK1E: Tensor, v_BK1E: Tensor) -> Tensor:
            cache.keys[layer][rows, :, columns_BN[:, offset]] = k_BK1E.squeeze(2)
            cache.values[layer][rows, :, columns_BN[:, offset]] = v_BK1E.squeeze(2)
            return self._attend(cache, layer, q_BH1E, biases[:, None, offset : offset + 1])

        sampling = self.temperature, self.top_k
        return process_positions(transformer, self.slots, self.uniforms, (cosines, sines), attend, *sampling)

    def _biases(self, columns_BN: Tensor) -> Tensor:
        """Added to the attention's logits, ``[B, N, shared + window]``: 0, or -inf for masked positions."""
        device = columns_BN.device
        hidden = torch.arange(self.window, device=device) > columns_BN[..., None]
        dtype = self.slots.dtype
        if self.branches is not None:
            beyond = torch.arange(self.branches.longest, device=device) >= self.branches.lengths[:, None]
            hidden = torch.cat([beyond[:, None].expand(-1, hidden.shape[1], -1), hidden], dim=-1)
            dtype = torch.promote_types(dtype, torch.float32)  # then also the dtype of the logits
        return torch.zeros(hidden.shape, device=device, dtype=dtype).masked_fill(hidden, float("-inf"))

    def _attend(self, cache: KeyValueCache, layer: int, q_BH1E: Tensor, bias_B11S: Tensor) -> Tensor:
        """As :meth:`KeyValueCache.attend`, ``[B, H, 1, E]``."""
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


class GraphCache:
    """The captured graphs of one transformer, by everything they depend on.

    A graph belongs to memory addresses, not to a key/value cache: a rollout makes a new cache, and PyTorch's allocator
    mostly gives it the memory that the last one of its size had. A graph is not used again for a cache whose tensors
    moved (``put`` after a fork, ``unshare``) or for weights that did (``to``). It is used again after weights or rows
    were changed in place.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, StaticDecode | None] = OrderedDict()

    def find(self, key: Hashable, make: Callable[[], StaticDecode]) -> StaticDecode | None:
        """The entry for a key; None when a key is requested for the first time.

        A capture takes as long as two or three frames without one, which is wasted if a key never occurs again.
        """
        known, entry = key in self._entries, self._entries.pop(key, None)
        if known and entry is None:
            entry = make()
        self._entries[key] = entry
        if len(self._entries) > LIMIT:
            self._entries.popitem(last=False)
        return entry


_graphs: WeakKeyDictionary[Transformer, GraphCache] = WeakKeyDictionary()
_captured: WeakKeyDictionary[Any, torch.device] = WeakKeyDictionary()  # all live graphs
_failed_captures: list[StaticDecode] = []  # after one, no more are tried; kept, as PyTorch's allocator may use them


@torch_defaults(grad=False)  # tensors at fixed addresses must be ordinary ones, whatever mode they are made in
def sample_codes(
    transformer: Transformer, cache: KeyValueCache, slots_BD: Tensor, uniforms: Tensor, temperature: float, top_k: int
) -> SampledCodes | None:
    """As :func:`worldgym.transformer.decoding.eager.sample_codes`.

    Returns:
        None if ``eager.sample_codes`` is to be used: not on a GPU, at the first use of a cache's memory, or after a
        capture failed.
    """
    if _failed_captures or not _usable(transformer, cache):
        return None
    count = transformer.layout.step_length
    assert len(slots_BD) == len(uniforms) == len(cache.lengths), "expected a slot and uniforms for each row"
    cache.check_remaining(count)
    starts = cache.own_lengths()
    window = min(-(-(max(starts) + count) // WINDOW) * WINDOW, cache.keys[0].shape[2])
    settings = window, temperature, top_k
    key = (*settings, *_dependencies(transformer, cache))
    graphs = _graphs.setdefault(transformer, GraphCache())
    static = graphs.find(key, lambda: StaticDecode(transformer, cache, *settings))
    if static is None:
        return None
    static.set_inputs(slots_BD, uniforms, starts)
    if static.sampled is None:
        try:
            static.sampled = _capture(static, functools.partial(static.compute, transformer, cache))
        except RuntimeError as error:
            _failed_captures.append(static)
            cause = error.__context__ or error  # the cause of the failure, not the error at the end of the capture
            reason = (str(cause).splitlines() or [type(cause).__name__])[0]
            warnings.warn(
                f"expected to capture a CUDA graph, got: {reason}. Imagining is several times slower without; set "
                f"{SWITCH}=0 to silence this warning",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
    static.graph.replay()
    cache.advance(count)
    return SampledCodes(*(tensor.clone() for tensor in static.sampled))


def _usable(transformer: Transformer, cache: KeyValueCache) -> bool:
    if cache.device.type != "cuda" or switched_off():
        return False
    weight = transformer.llm.lm_head.weight
    return (cache.device, cache.dtype) == (weight.device, weight.dtype)


def _dependencies(transformer: Transformer, cache: KeyValueCache) -> Iterator[Hashable]:
    """Addresses and shapes that are fixed in a graph and may differ for the next frame."""
    tensors = [*_weights(transformer), *cache.keys, *cache.values]
    yield cache.capacity, cache.keys[0].shape
    if cache.prefix is not None:
        tensors += cache.prefix.keys + cache.prefix.values
        yield cache.prefix.keys[0].shape, tuple(cache.prefix.lengths), tuple(cache.prefix.rows)
    yield from ((tensor.data_ptr(), tensor.dtype) for tensor in tensors)


def _weights(module: nn.Module) -> Iterator[Tensor]:
    """As ``module.parameters()``, but several times faster, because it runs for every frame."""
    yield from (weight for weight in module._parameters.values() if weight is not None)
    for child in module._modules.values():
        if child is not None:
            yield from _weights(child)


def _capture(static: StaticDecode, work: Callable[[], SampledCodes]) -> SampledCodes:
    """Capture ``work`` as the graph of ``static``.

    The warm-up writes to the cache what the frame is about to write anyway. The first replay must sample the same
    codes as the warm-up.

    Graphs share the memory of intermediate results: no two run at once, and results are copied before the next one
    runs. The workspace of the matrix library is part of it. PyTorch has one for each stream and frees it as soon as any
    graph of that stream is deleted (pytorch/pytorch#193402); other tensors may then get memory that the remaining
    graphs write to. So the stream of captures is used for nothing else, not even for the warm-up.

    Returns:
        The tensors that a replay fills.

    Raises:
        RuntimeError: if capturing failed or the first replay samples other codes.
    """
    static.graph, device = torch.cuda.CUDAGraph(), static.slots.device
    pool = next((other.pool() for other, where in _captured.items() if where == device), None)
    with torch.cuda.device(device):
        expected = work()  # libraries initialise themselves at their first call, which is not allowed while capturing
        stream = _capture_stream(device)
        capture = torch.cuda.graph(static.graph, pool=pool, stream=stream, capture_error_mode="thread_local")
        with torch.cuda.stream(stream), capture:  # `capture` alone would not leave the stream after a failure
            sampled = work()
        static.graph.replay()
    _captured[static.graph] = device
    if not torch.equal(sampled.codes, expected.codes):
        raise RuntimeError("a captured graph sampled other codes than the same computation before")
    return sampled


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
