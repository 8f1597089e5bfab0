"""CUDA graphs against the eager path, and when a graph is used again.

Without a GPU a stand-in replaces a graph: it repeats the captured work on the captured tensors.
"""

import copy
import functools
import gc
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from worldgym import native
from worldgym.config import TransformerConfig
from worldgym.errors import InvalidBuffer
from worldgym.tokens import TokenLayout
from worldgym.transformer.cache import KeyValueCache
from worldgym.transformer.decoding import cuda_graph, eager
from worldgym.transformer.decoding.cuda_graph import GraphCache, StaticDecode
from worldgym.transformer.decoding.eager import SampledCodes
from worldgym.transformer.decoding.frame import read_context
from worldgym.transformer.transformer import Transformer

FRAMES, TOKENS, CODES = 6, 4, 37


pytestmark = pytest.mark.usefixtures("without_gradients")


class Shape(NamedTuple):
    """Sizes of a toy transformer, and sampling options."""

    heads: int = 4
    key_value_heads: int = 2
    places: bool = True
    batch: int = 3
    temperature: float = 0.8
    top_k: int = 9
    dtype: torch.dtype = torch.float32

    def transformer(self) -> Transformer:
        layout = TokenLayout(2, 5, TOKENS, context_codes=11, dynamics_codes=CODES)
        config = TransformerConfig(
            layers=2,
            heads=self.heads,
            key_value_heads=self.key_value_heads,
            hidden_size=self.heads * 8,
            mlp_size=40,
            max_positions=layout.length(2 * FRAMES),
            place_embeddings=self.places,
        )
        torch.manual_seed(0)
        model = Transformer(config, layout, action_dim=3, reward=True).eval()
        for name, parameter in model.named_parameters():  # of a size that neither drowns nor magnifies rounding
            size = 0.5 if "embed" in name or parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=size)
        return model.to(self.dtype)


SHAPES = st.builds(
    lambda heads, *rest: Shape(*heads, *rest),
    st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2), (3, 1)]),
    st.booleans(),
    st.sampled_from([1, 2, 3, 5]),
    st.sampled_from([0.3, 1.0, 2.5]),
    st.sampled_from([1, 5, 2**70]),
)


def aligned(transformer: Transformer, batch: int) -> KeyValueCache:
    where = transformer.llm.lm_head.weight.device
    return read_context(transformer, torch.randint(11, (batch, 2, 5)).to(where))


def unaligned(transformer: Transformer, batch: int) -> KeyValueCache:
    """Every other row is a frame ahead of the rest."""
    cache = aligned(transformer, batch)
    plainly(transformer, cache, 100)
    late = list(range(0, batch, 2))
    cache.put(late, aligned(transformer, len(late)))
    return cache


def forked(transformer: Transformer, batch: int) -> KeyValueCache:
    return aligned(transformer, 1).fork(batch)


def forked_late(transformer: Transformer, batch: int) -> KeyValueCache:
    """Forks of several pasts, one frame after their start."""
    cache = unaligned(transformer, 2)
    plainly(transformer, cache, 101)
    return cache.fork(batch)


def selected(transformer: Transformer, batch: int) -> KeyValueCache:
    """Branches in no order; some pasts have one branch, others none."""
    cache = unaligned(transformer, 3).fork(2)
    plainly(transformer, cache, 102)
    return cache.select([(5 * row + 1) % 4 for row in range(batch)])


def forked_twice(transformer: Transformer, batch: int) -> KeyValueCache:
    cache = aligned(transformer, 2).fork(2)
    plainly(transformer, cache, 103)
    return cache.fork(batch)


PASTS: list[Callable[[Transformer, int], KeyValueCache]] = [
    aligned,
    unaligned,
    forked,
    forked_late,
    selected,
    forked_twice,
]


def inputs(transformer: Transformer, cache: KeyValueCache, seed: int) -> tuple[Tensor, Tensor]:
    """Slots ``[B, D]`` and uniforms ``[B, n]`` that follow from the seed."""
    generator, batch = torch.Generator().manual_seed(seed), len(cache.lengths)
    slots = 0.5 * torch.randn(batch, transformer.config.hidden_size, generator=generator)
    return slots.to(cache.device, cache.dtype), torch.rand(batch, TOKENS, generator=generator).to(cache.device)


def plainly(
    transformer: Transformer, cache: KeyValueCache, seed: int, temperature: float = 0.8, top_k: int = 9
) -> SampledCodes:
    return eager.sample_codes(transformer, cache, *inputs(transformer, cache, seed), temperature, top_k)


def statically(
    transformer: Transformer, cache: KeyValueCache, seed: int, temperature: float = 0.8, top_k: int = 9
) -> SampledCodes:
    """With the narrowest window that contains the frame."""
    window = max(cache.own_lengths()) + transformer.layout.step_length
    frame = StaticDecode(transformer, cache, window, temperature, top_k)
    frame.set_inputs(*inputs(transformer, cache, seed), cache.own_lengths())
    sampled = frame.compute(transformer, cache)
    cache.advance(transformer.layout.step_length)
    return sampled


def as_captured(
    transformer: Transformer, cache: KeyValueCache, seed: int, temperature: float = 0.8, top_k: int = 9
) -> SampledCodes:
    """The codes by :func:`cuda_graph.sample_codes`, or the eager path if it returns None."""
    given = transformer, cache, *inputs(transformer, cache, seed), temperature, top_k
    return cuda_graph.sample_codes(*given) or eager.sample_codes(*given)


def copied(cache: KeyValueCache) -> KeyValueCache:
    return cache.select(range(len(cache.lengths)))


def assert_same(got: SampledCodes, wanted: SampledCodes, apart: float = 1e-5) -> None:
    assert torch.equal(got.codes, wanted.codes)
    assert got.hidden.dtype is wanted.hidden.dtype
    for tensor, other in zip(got[1:], wanted[1:], strict=True):
        torch.testing.assert_close(tensor, other, atol=apart, rtol=apart)


def assert_same_past(cache: KeyValueCache, other: KeyValueCache, apart: float = 1e-5) -> None:
    assert cache.lengths == other.lengths
    for one, two in zip(cache.keys + cache.values, other.keys + other.values, strict=True):
        torch.testing.assert_close(one, two, atol=apart, rtol=apart)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(SHAPES, st.sampled_from(PASTS))
def test_a_static_frame_is_the_plain_one(shape: Shape, make: Callable[[Transformer, int], KeyValueCache]) -> None:
    transformer = shape.transformer()
    cache = make(transformer, shape.batch)
    plain = copied(cache)
    for seed in range(FRAMES - 1):
        sampling = shape.temperature, shape.top_k
        assert_same(statically(transformer, cache, seed, *sampling), plainly(transformer, plain, seed, *sampling))
    assert_same_past(cache, plain)


@pytest.mark.parametrize("make", PASTS)
def test_a_wider_window_changes_nothing(make: Callable[[Transformer, int], KeyValueCache]) -> None:
    """Later positions, for example those from before the row started anew, are masked."""
    transformer = Shape().transformer()
    cache = make(transformer, 3)
    for tensor in cache.keys + cache.values:
        for row, used in enumerate(cache.own_lengths()):
            tensor[row, :, used:] = 30.0
    plain = copied(cache)
    frame = StaticDecode(transformer, cache, cache.keys[0].shape[2], 0.8, 9)
    frame.set_inputs(*inputs(transformer, cache, 0), cache.own_lengths())
    assert_same(frame.compute(transformer, cache), plainly(transformer, plain, 0))


@pytest.mark.parametrize("make", PASTS)
def test_bfloat16(make: Callable[[Transformer, int], KeyValueCache]) -> None:
    transformer = Shape(dtype=torch.bfloat16).transformer()
    cache = make(transformer, 3)
    plain = copied(cache)
    static, wanted = (path(transformer, each, 0, 1.0, 1) for path, each in [(statically, cache), (plainly, plain)])
    assert static.hidden.dtype is torch.bfloat16
    torch.testing.assert_close(static.uncertainty, wanted.uncertainty, atol=0.2, rtol=0)
    slot = max(plain.own_lengths()) - transformer.layout.step_length  # no draw has come before it
    for one, two in zip(cache.keys + cache.values, plain.keys + plain.values, strict=True):
        torch.testing.assert_close(one[:, :, slot], two[:, :, slot], atol=0.1, rtol=0.05)


@pytest.mark.parametrize("make", PASTS)
def test_a_frame_can_be_captured(make: Callable[[Transformer, int], KeyValueCache]) -> None:
    """As far as can be checked without a GPU: on meta tensors, no operator waits for the device or uses another one."""
    with torch.inference_mode(False), torch.no_grad():  # operators are seen down to the smallest
        with torch.device("meta"):
            transformer = Shape().transformer()
            cache = make(transformer, 3)
        for top_k in (1, 9):
            frame = StaticDecode(transformer, cache, cache.keys[0].shape[2], 0.8, top_k)
            with Operators() as used:
                sampled = frame.compute(transformer, cache)
            assert [tensor.shape[0] for tensor in sampled] == [len(cache.lengths)] * 3
            assert not used.names & {"_local_scalar_dense", "nonzero", "lift_fresh"}
            assert used.devices == {"meta"}


class Operators(TorchDispatchMode):
    """The names of all operators, and the devices of all tensors that go into or come out of them."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.devices: set[str] = set()

    def __torch_dispatch__(self, operator: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        made = operator(*given, **(named or {}))
        self.names.add(operator.overloadpacket.__name__)
        self.devices |= {part.device.type for part in tree_leaves((given, named, made)) if isinstance(part, Tensor)}
        return made


class Recorded:
    """A stand-in for a graph: repeats the captured work on the captured tensors."""

    def __init__(self, work: "functools.partial[SampledCodes]") -> None:
        transformer, cache = work.args
        cache = copy.copy(cache)  # keeps these keys and values if the original changes to others
        self._work: Callable[[], SampledCodes] = functools.partial(work.func, transformer, cache)
        self.sampled = self._work()
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for tensor, new in zip(self.sampled, self._work(), strict=True):
            tensor.copy_(new)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """All captures, on a CPU in place of a GPU, with windows of a frame and a half."""
    made: list[Recorded] = []

    def capture(frame: StaticDecode, work: "functools.partial[SampledCodes]") -> SampledCodes:
        made.append(Recorded(work))
        frame.graph = made[-1]
        return made[-1].sampled

    monkeypatch.setattr(cuda_graph, "_failed_captures", [])
    monkeypatch.setattr(cuda_graph, "_usable", lambda transformer, cache: True)
    monkeypatch.setattr(cuda_graph, "_capture", capture)
    monkeypatch.setattr(cuda_graph, "WINDOW", 8)
    return made


@pytest.fixture
def one_window(captures: list[Recorded], monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """The same, with one window for all positions."""
    monkeypatch.setattr(cuda_graph, "WINDOW", 128)
    return captures


def test_frames_across_windows(captures: list[Recorded]) -> None:
    """A graph is used from the second frame in a window on. Windows end at multiples of 8, frames at 16, 21, 26, ..."""
    transformer = Shape().transformer()
    cache = aligned(transformer, 3)
    plain, replays = copied(cache), []
    for seed in range(2 * FRAMES):
        assert_same(as_captured(transformer, cache, seed), plainly(transformer, plain, seed))
        assert_same_past(cache, plain)
        replays.append(sum(graph.replays for graph in captures))
    assert replays == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4]
    assert [graph.replays for graph in captures] == [1] * 4


def test_rows_that_start_anew_keep_their_graph(one_window: list[Recorded]) -> None:
    transformer = Shape().transformer()
    cache = aligned(transformer, 3)
    plain = copied(cache)
    for seed in range(2 * FRAMES):
        if seed % 3 == 2:
            fresh = aligned(transformer, 1)
            for each in (cache, plain):
                each.put([seed % 2], fresh)
        assert_same(as_captured(transformer, cache, seed), plainly(transformer, plain, seed))
    assert_same_past(cache, plain)
    assert [graph.replays for graph in one_window] == [2 * FRAMES - 1]


def test_a_cache_whose_tensors_move_gets_a_new_graph(one_window: list[Recorded]) -> None:
    """After a fork, rows are copied before they are overwritten; unshared branches have new tensors as well."""
    transformer = Shape().transformer()
    cache = aligned(transformer, 2)
    caches = [(cache, copied(cache))]

    def step(count: int = 3) -> None:
        for seed in range(count):
            for each, plain in caches:
                assert_same(as_captured(transformer, each, seed), plainly(transformer, plain, seed))

    step()
    assert len(one_window) == 1
    caches.append((cache.fork(2), caches[0][1].fork(2)))
    step()
    assert len(one_window) == 2  # the trunk goes on where it was
    fresh = aligned(transformer, 1)
    for each in caches[0]:
        each.put([1], fresh)
    step()
    assert len(one_window) == 3
    for each in caches[1]:
        each.put([3], fresh)
    step()
    assert len(one_window) == 4
    for each, plain in caches:
        assert_same_past(each, plain)


def test_a_cache_at_the_same_addresses_uses_the_same_graph(one_window: list[Recorded]) -> None:
    """PyTorch's allocator gives the next rollout the memory of the last one."""
    transformer = Shape().transformer()
    cache = aligned(transformer, 2)
    for seed in range(2):
        as_captured(transformer, cache, seed)
    following = aligned(transformer, 2)
    plain = copied(following)
    for old, new in zip(cache.keys + cache.values, following.keys + following.values, strict=True):
        old.copy_(new)
    following.keys, following.values = cache.keys, cache.values
    for seed in range(3):
        assert_same(as_captured(transformer, following, seed), plainly(transformer, plain, seed))
    assert [graph.replays for graph in one_window] == [4]


def test_forks_at_the_same_addresses_with_other_pasts_get_other_graphs(one_window: list[Recorded]) -> None:
    transformer = Shape().transformer()
    cache, following = forked(transformer, 2), forked(transformer, 2)
    plain = copied(following)
    following.keys, following.values = cache.keys, cache.values
    for each, other in ((cache, copied(cache)), (following, plain)):
        for seed in range(3):
            assert_same(as_captured(transformer, each, seed), plainly(transformer, other, seed))
    assert [graph.replays for graph in one_window] == [2, 2]


def test_inference_mode_may_change_between_frames(one_window: list[Recorded]) -> None:
    transformer = Shape().transformer()
    with torch.inference_mode(False), torch.no_grad():
        cache = aligned(transformer, 2)
        plain = copied(cache)
    for seed in range(6):
        with torch.inference_mode(seed % 2 == 0), torch.no_grad():
            assert_same(as_captured(transformer, cache, seed), plainly(transformer, plain, seed))
    assert [graph.replays for graph in one_window] == [5]


def test_weights_changed_in_place_keep_their_graphs_and_moved_ones_do_not(one_window: list[Recorded]) -> None:
    transformer = Shape().transformer()
    cache = aligned(transformer, 2)
    plain = copied(cache)

    def step() -> None:
        for seed in range(2):
            assert_same(as_captured(transformer, cache, seed), plainly(transformer, plain, seed))

    step()
    for weight in transformer.parameters():
        weight.mul_(1.1)
    step()
    assert len(one_window) == 1
    for weight in transformer.llm.model.layers[1].mlp.parameters():
        weight.data = 0.9 * weight.data
    step()
    assert len(one_window) == 2
    transformer.llm.model.norm.weight = torch.nn.Parameter(transformer.llm.model.norm.weight * 2)
    step()
    assert len(one_window) == 3


def test_each_sampling_setting_has_its_graph(one_window: list[Recorded]) -> None:
    transformer = Shape().transformer()
    cache = aligned(transformer, 2)
    plain = copied(cache)
    for seed, sampling in enumerate([(0.8, 9), (0.5, 9), (0.8, 1)] * 3):
        assert_same(as_captured(transformer, cache, seed, *sampling), plainly(transformer, plain, seed, *sampling))
    assert [graph.replays for graph in one_window] == [2, 2, 2]


def test_all_weights_are_among_the_dependencies() -> None:
    transformer = Shape().transformer()
    found = {tensor.data_ptr() for tensor in cuda_graph._weights(transformer)}
    assert found == {tensor.data_ptr() for tensor in transformer.state_dict().values()}


def test_a_graph_keeps_neither_model_nor_cache() -> None:
    transformer = Shape().transformer()
    cache = forked(transformer, 3)
    assert cache.prefix is not None
    frame = StaticDecode(transformer, cache, 8, 1.0, 1)
    frame.set_inputs(*inputs(transformer, cache, 0), cache.own_lengths())
    frame.sampled = frame.compute(transformer, cache)
    held = [weakref.ref(thing) for thing in (transformer, cache, cache.keys[0], cache.prefix.keys[0])]
    del transformer, cache
    gc.collect()
    assert [ref() for ref in held] == [None] * 4


def test_graphs_are_freed_with_their_model(captures: list[Recorded]) -> None:
    transformer = Shape().transformer()
    as_captured(transformer, aligned(transformer, 2), 0)
    ref = weakref.ref(transformer)
    assert transformer in cuda_graph._graphs
    del transformer
    gc.collect()
    assert ref() is None


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.integers(0, 5), min_size=8, max_size=40))
def test_the_graphs_used_last_stay(keys: list[int]) -> None:
    """The least recently used ones are dropped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_graph, "LIMIT", 3)
        cache = aligned(transformer := Shape().transformer(), 1)
        found, known = GraphCache(), OrderedDict[int, StaticDecode | None]()
        for key in keys:
            frame = found.find(key, lambda: StaticDecode(transformer, cache, 16, 1.0, 1))
            if key not in known:
                assert frame is None
            elif known[key] is not None:
                assert frame is known[key]
            else:
                assert frame is not None
                assert frame not in known.values()
            known[key] = frame
            known.move_to_end(key)
            while len(known) > 3:
                known.popitem(last=False)


def test_a_failed_capture_gives_one_warning(captures: list[Recorded], monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def capture(frame: StaticDecode, work: Callable[[], SampledCodes]) -> SampledCodes:
        tried.append(frame)
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nand more of that")

    monkeypatch.setattr(cuda_graph, "_capture", capture)
    monkeypatch.setattr(cuda_graph, "WINDOW", 128)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for transformer in (Shape().transformer(), Shape(heads=2).transformer()):
            cache = aligned(transformer, 2)
            plain = copied(cache)
            for seed in range(4):
                assert_same(as_captured(transformer, cache, seed), plainly(transformer, plain, seed))
                assert_same_past(cache, plain)
    (message,) = [str(warning.message) for warning in warned]
    assert "got: operation not permitted when stream is capturing. Imagining is several times slower" in message
    assert "WORLDGYM_NATIVE=0 to silence" in message
    assert len(tried) == 1
    assert tried == cuda_graph._failed_captures


def test_a_cpu_has_no_graphs() -> None:
    transformer = Shape().transformer()
    cache = aligned(transformer, 2)
    assert cuda_graph.sample_codes(transformer, cache, *inputs(transformer, cache, 0), 1.0, 1) is None


def test_a_cache_that_is_full_is_not_overrun(captures: list[Recorded]) -> None:
    transformer = Shape().transformer()
    cache = read_context(transformer, torch.zeros(1, 2, 5, dtype=torch.int64), transformer.layout.length(1))
    as_captured(transformer, cache, 0)
    with pytest.raises(InvalidBuffer, match="expected 5 free positions in every row, got 0 of 16"):
        as_captured(transformer, cache, 0)


class Pairs:
    """Caches that use graphs, each with a copy that uses the eager path."""

    def __init__(self, transformer: Transformer) -> None:
        cache = unaligned(transformer, 2)
        self.transformer, self.pairs = transformer, [(cache, copied(cache))]

    def step(self, which: int, seed: int) -> None:
        cache, plain = self.pairs[which]
        if min(cache.remaining()) < self.transformer.layout.step_length:
            self.put(which, seed)
        else:
            assert_same(as_captured(self.transformer, cache, seed), plainly(self.transformer, plain, seed), 1e-4)

    def fork(self, which: int, seed: int) -> None:
        if len(self.pairs[which][0].lengths) < 5:
            self.pairs.append(tuple(cache.fork(1 + seed % 3) for cache in self.pairs[which]))

    def select(self, which: int, seed: int) -> None:
        count = len(self.pairs[which][0].lengths)
        rows = [(seed * row + 1) % count for row in range(1 + seed % 4)]
        self.pairs.append(tuple(cache.select(rows) for cache in self.pairs[which]))

    def put(self, which: int, seed: int) -> None:
        """Start rows anew: full ones, or else one."""
        cache = self.pairs[which][0]
        full = [row for row, left in enumerate(cache.remaining()) if left < self.transformer.layout.step_length]
        rows = full or [seed % len(cache.lengths)]
        fresh = aligned(self.transformer, len(rows))
        for each in self.pairs[which]:
            each.put(rows, fresh)

    def drop(self, which: int, seed: int) -> None:
        """Free a pair; other caches may get its memory."""
        if len(self.pairs) > 1:
            del self.pairs[which]


ACTS: list[Callable[[Pairs, int, int], None]] = [Pairs.fork, Pairs.select, Pairs.put, Pairs.drop, *[Pairs.step] * 5]


@settings(deadline=None, max_examples=10, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(ACTS), *[st.integers(0, 20)] * 2), min_size=12, max_size=24))
def test_random_sequences_of_operations(
    one_window: list[Recorded], acts: list[tuple[Callable[[Pairs, int, int], None], int, int]]
) -> None:
    pairs = Pairs(Shape().transformer())
    for act, which, seed in acts:
        act(pairs, which % len(pairs.pairs), seed)
    for which in range(len(pairs.pairs)):
        for seed in range(3):
            pairs.step(which, seed)


def assert_a_long_life(transformer: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across windows, with new starts, branches, selections, changing weights, and graphs that are dropped."""
    monkeypatch.setattr(cuda_graph, "WINDOW", 16)
    monkeypatch.setattr(cuda_graph, "LIMIT", 6)
    made, capture = [], cuda_graph._capture
    monkeypatch.setattr(cuda_graph, "_capture", lambda *given: made.append(given[0].window) or capture(*given))
    cache = aligned(transformer, 3)
    caches = [(cache, copied(cache))]
    for seed in range(40):
        for which, (each, plain) in enumerate(caches):
            full = [row for row, left in enumerate(each.remaining()) if left < transformer.layout.step_length]
            if rows := full or [0] * (seed % 7 == which + 3):
                fresh = aligned(transformer, len(rows))
                each.put(rows, fresh)
                plain.put(rows, fresh)
            assert_same(as_captured(transformer, each, seed), plainly(transformer, plain, seed), 1e-4)
        if seed in (5, 20):
            caches.append(tuple(each.fork(2) for each in caches[-1]))
        if seed == 12:
            caches.append(tuple(each.select([4, 1, 1]) for each in caches[1]))
        if seed == 15:
            for weight in transformer.parameters():
                weight.mul_(1.02)
        if seed == 30:
            del caches[0]
    for each, plain in caches:
        assert_same_past(each, plain, 1e-4)
    assert len(made) > 12
    assert len(set(made)) > 2


@pytest.mark.parametrize("key_value_heads", [2, 4])
def test_a_long_life(captures: list[Recorded], key_value_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_a_long_life(Shape(key_value_heads=key_value_heads).transformer(), monkeypatch)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
@pytest.mark.parametrize("key_value_heads", [2, 4])
def test_a_long_life_of_captured_graphs(key_value_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With real graphs."""
    assert_a_long_life(Shape(key_value_heads=key_value_heads).transformer().to("cuda"), monkeypatch)
    assert cuda_graph._captured


@needs_gpu
def test_a_rollout_finds_the_graphs_of_the_last_one() -> None:
    """A new cache gets the memory of the last one of its size, and nothing waits for the device.

    The size is large enough for memory blocks of its own.
    """
    transformer = Shape(heads=8, key_value_heads=8, dtype=torch.bfloat16).transformer().to("cuda")
    for _ in range(4):
        cache = aligned(transformer, 256).fork(1)
        for seed in range(FRAMES):
            as_captured(transformer, cache, seed)
        kept = set(cuda_graph._captured)
        del cache
    cache = aligned(transformer, 256).fork(1)
    inputs = [inputs(transformer, cache, seed) for seed in range(FRAMES)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for given_now in inputs:
            assert cuda_graph.sample_codes(transformer, cache, *given_now, 0.8, 9) is not None
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert set(cuda_graph._captured) == kept


@needs_gpu
def test_the_switch_turns_graphs_off(monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = Shape().transformer().to("cuda")
    cache = aligned(transformer, 2)
    assert cuda_graph._usable(transformer, cache)
    monkeypatch.setenv(native.SWITCH, "0")
    assert not cuda_graph._usable(transformer, cache)
