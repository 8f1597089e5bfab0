"""Compiled code against the eager path: equal codes, uncertainty and hidden states."""

import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worldgym import native
from worldgym.config import TransformerConfig
from worldgym.data.start_states import StartState, StartStates
from worldgym.errors import InvalidBuffer
from worldgym.metrics.pixels import psnr, squared_error
from worldgym.pretrained import START_STATES, locate
from worldgym.tokens import TokenLayout
from worldgym.transformer.cache import KeyValueCache
from worldgym.transformer.decoding import eager
from worldgym.transformer.decoding.frame import ImaginedFrame, imagine_frame, read_context
from worldgym.transformer.decoding.native import sample_codes
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel

FRAMES = 3


pytestmark = pytest.mark.usefixtures("without_gradients")


class Shape(NamedTuple):
    """Sizes of a toy transformer, and sampling options."""

    heads: int = 4
    key_value_heads: int = 2
    head_dim: int = 8
    mlp: int = 40
    layers: int = 2
    tokens: int = 4
    codes: int = 37
    places: bool = True
    actions: int = 3
    batch: int = 3
    top_k: int = 100
    temperature: float = 0.8

    def transformer(self, seed: int = 0) -> Transformer:
        layout = TokenLayout(2, 5, self.tokens, context_codes=11, dynamics_codes=self.codes)
        config = TransformerConfig(
            layers=self.layers,
            heads=self.heads,
            key_value_heads=self.key_value_heads,
            hidden_size=self.heads * self.head_dim,
            mlp_size=self.mlp,
            max_positions=layout.length(2 * FRAMES),
            cumulative_actions=self.actions > 0,
            place_embeddings=self.places,
        )
        torch.manual_seed(seed)
        model = Transformer(config, layout, self.actions, reward=True).eval()
        for name, parameter in model.named_parameters():  # of a size that neither drowns nor magnifies rounding
            size = 0.5 if "embed" in name or parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=size)
        torch.nn.init.normal_(model.llm.lm_head.weight, std=2 * config.hidden_size**-0.5)  # some codes stand out
        return model


SHAPES = st.builds(
    lambda heads, fields: Shape(heads[0], heads[1], *fields),
    st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4), (3, 1)]),
    st.tuples(
        st.sampled_from([2, 8, 10, 16, 24, 64, 66]),  # head_dim: below, at and above one vector, and four of them
        st.sampled_from([1, 16, 24, 33, 100]),
        st.integers(1, 2),
        st.sampled_from([1, 4, 16]),
        st.sampled_from([2, 16, 37, 130]),
        st.booleans(),
        st.sampled_from([0, 3]),
        st.sampled_from([1, 2, 3, 5, 17]),
        st.sampled_from([1, 5, 1000]),
        st.sampled_from([0.3, 1.0, 2.5]),
    ),
)


def aligned(transformer: Transformer, batch: int) -> KeyValueCache:
    layout = transformer.layout
    return read_context(transformer, torch.randint(11, (batch, 2, layout.tokens_per_context_frame)))


def unaligned(transformer: Transformer, batch: int) -> KeyValueCache:
    """Every other row is a frame ahead of the rest."""
    cache = aligned(transformer, batch)
    advance(transformer, cache, torch.rand(batch, transformer.layout.tokens_per_frame))
    late = list(range(0, batch, 2))
    cache.put(late, aligned(transformer, len(late)))
    return cache


def forked(transformer: Transformer, batch: int) -> KeyValueCache:
    return aligned(transformer, 1).fork(batch)


def forked_unaligned(transformer: Transformer, batch: int) -> KeyValueCache:
    """Branches of pasts of two lengths, in no order, some of them a frame later."""
    cache = unaligned(transformer, 2).fork(batch)
    advance(transformer, cache, torch.rand(2 * batch, transformer.layout.tokens_per_frame))
    return cache.select([(5 * row + 1) % (2 * batch) for row in range(batch)])


def forked_twice(transformer: Transformer, batch: int) -> KeyValueCache:
    cache = unaligned(transformer, 2).fork(2)
    advance(transformer, cache, torch.rand(4, transformer.layout.tokens_per_frame))
    return cache.fork(batch).select(range(batch))


PASTS: list[Callable[[Transformer, int], KeyValueCache]] = [aligned, unaligned, forked, forked_unaligned, forked_twice]


def advance(
    transformer: Transformer,
    cache: KeyValueCache,
    uniforms: Tensor,
    temperature: float = 0.8,
    top_k: int = 100,
    action: Tensor | None = None,
) -> ImaginedFrame:
    """One frame; the default action is zero."""
    if transformer.action_dim and action is None:
        action = torch.zeros_like(cache.cumulative_action)
    return imagine_frame(transformer, cache, action, uniforms, temperature, top_k)


def imagine_all(shape: Shape, transformer: Transformer, past: KeyValueCache, uniforms: Tensor) -> list[ImaginedFrame]:
    """From a copy of ``past``, with uniforms ``[B, T, n]`` and actions that differ from row to row."""
    cache = past.select(range(shape.batch))
    generator = torch.Generator().manual_seed(1)
    frames = []
    for t in range(FRAMES):
        action = torch.randn(shape.batch, shape.actions, generator=generator) if shape.actions else None
        frames.append(advance(transformer, cache, uniforms[:, t], shape.temperature, shape.top_k, action))
    return frames


@contextmanager
def plainly() -> Iterator[None]:
    """Without the compiled library."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: None)
        yield


@contextmanager
def clear_draws() -> Iterator[list[Tensor]]:
    """Samples that do not depend on rounding, and uniforms ``[B]`` that give them: the middles of their intervals.

    If the sampled code has hardly any probability, or nearly that of another one, the likeliest code is taken.
    """
    middles: list[Tensor] = []

    def draw(logits: Tensor, uniforms: Tensor, temperature: float, top_k: int) -> Tensor:
        ordered, indices = logits.sort(dim=-1, descending=True)
        share = (ordered[:, :top_k] / temperature).softmax(-1)
        upper = share.cumsum(-1)
        drawn = (upper <= uniforms[:, None] * upper[:, -1:]).sum(-1, keepdim=True).clamp(max=share.shape[1] - 1)
        gaps = torch.nn.functional.pad(-ordered.diff(dim=-1), (1, 1), value=1.0)
        clear = torch.minimum(gaps[:, :-1], gaps[:, 1:]).gather(1, drawn).gt(1e-4) & share.gather(1, drawn).gt(1e-3)
        drawn = torch.where(clear, drawn, 0)
        middles.append((upper - share / 2).gather(1, drawn).squeeze(1))
        return indices.gather(1, drawn).squeeze(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eager, "sample_top_k", draw)
        yield middles


def assert_same(got: list[ImaginedFrame], wanted: list[ImaginedFrame]) -> None:
    for one, other in zip(got, wanted, strict=True):
        assert torch.equal(one.codes, other.codes)
        torch.testing.assert_close(one.reward, other.reward, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.uncertainty, other.uncertainty, atol=1e-5, rtol=1e-5)


@pytest.mark.native
@settings(deadline=None, max_examples=30, derandomize=True)
@given(SHAPES, st.sampled_from(PASTS))
def test_compiled_and_eager_frames_are_equal(shape: Shape, make: Callable[[Transformer, int], KeyValueCache]) -> None:
    transformer = shape.transformer()
    past = make(transformer, shape.batch)
    with plainly(), clear_draws() as middles:
        clear = imagine_all(shape, transformer, past, torch.rand(shape.batch, FRAMES, shape.tokens))
    uniforms = torch.stack(middles, dim=1).unflatten(1, (FRAMES, shape.tokens))
    with plainly():
        plain = imagine_all(shape, transformer, past, uniforms)
    assert_same(plain, clear)
    assert_same(imagine_all(shape, transformer, past, uniforms), plain)


@pytest.mark.native
@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    st.builds(
        # One layer: threads wait for each other often, which takes its time where others work.
        lambda sizes, batch: Shape(*sizes, batch=batch),
        st.sampled_from(
            [(4, 4, 8, 100, 1, 2, 16), (4, 1, 24, 16, 1, 1, 130), (8, 2, 8, 33, 1, 1, 37), (3, 1, 10, 47, 1, 2, 50)]
        ),
        st.sampled_from([1, 2, 3, 5, 8, 17, 33]),
    ),
    st.sampled_from(PASTS),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_results_do_not_depend_on_batch_threads_or_sharing(
    threads_of: Callable[[int], AbstractContextManager[None]],
    shape: Shape,
    make: Callable[[Transformer, int], KeyValueCache],
    dtype: torch.dtype,
) -> None:
    transformer = shape.transformer().to(dtype)
    past = make(transformer, shape.batch)
    slots, uniforms = torch.randn(shape.batch, shape.heads * shape.head_dim), torch.rand(shape.batch, shape.tokens)

    def drawn(cache: KeyValueCache, rows: list[int]) -> tuple[Tensor, ...]:
        made = sample_codes(transformer, cache, slots[rows], uniforms[rows], 1.0, 9)
        assert made is not None
        return made

    everyone = list(range(shape.batch))
    with threads_of(1):
        wanted = drawn(past.select(everyone), everyone)
    with threads_of(3):
        threaded = drawn(past.select(everyone), everyone)
    unshared = past.select(everyone)
    unshared.unshare()
    apart = [drawn(past.select([row]), [row]) for row in everyone]
    for got in (threaded, drawn(unshared, everyone), [torch.cat(parts) for parts in zip(*apart, strict=True)]):
        for tensor, other in zip(got, wanted, strict=True):
            assert torch.equal(tensor, other)


def first_code_shares(transformer: Transformer, context: Tensor, count: int) -> Tensor:
    """How often each code is sampled first, over ``count`` evenly spaced uniforms."""
    uniforms = (torch.arange(count) + 0.5) / count
    cache = read_context(transformer, context).fork(count)
    codes = advance(transformer, cache, uniforms[:, None], 1.0, transformer.layout.dynamics_codes).codes[:, 0]
    return torch.bincount(codes, minlength=transformer.layout.dynamics_codes) / count


@pytest.mark.native
@pytest.mark.parametrize(
    ("dtype", "apart"), [(torch.float32, 0.002), (torch.bfloat16, 0.02)], ids=["float32", "bfloat16"]
)
def test_codes_are_sampled_from_the_softmax(dtype: torch.dtype, apart: float) -> None:
    """Total variation between the sampled shares and the probabilities of the forward pass in float32."""
    transformer, count = Shape(tokens=1, heads=4, head_dim=16, mlp=48).transformer(seed=1), 8192
    layout, context = transformer.layout, torch.randint(11, (1, 2, 5))
    sequence = layout.sequence(context, torch.zeros(1, 1, 1, dtype=torch.int64))
    logits = layout.code_logits(transformer(sequence, torch.zeros(1, 1, 3), layout.prefix_length).logits)
    wanted = logits[0, 0, 0].softmax(-1)
    assert 0.05 < wanted.max() < 0.9  # neither certain nor uniform, or the test would say little
    shares = first_code_shares(transformer.to(dtype), context, count)
    assert (shares - wanted).abs().sum() / 2 < apart


@pytest.mark.native
def test_the_shipped_checkpoint_in_bfloat16() -> None:
    """First frames with equal noise: some codes differ, which must cost only some decibels."""
    bank = StartStates(locate("metaworld-64") / START_STATES)
    starts = [bank.get(task, 0, 2) for task in bank.tasks[::2]]
    context, action = (torch.stack(parts) for parts in zip(*map(_context_and_action, starts), strict=True))
    real = torch.stack([torch.from_numpy(start.future_frames[0]) for start in starts])
    noise = torch.rand(len(starts), 16, generator=torch.Generator().manual_seed(0))
    shown = []
    for dtype in (torch.float32, torch.bfloat16):
        model = WorldModel.from_pretrained("metaworld-64", dtype=dtype)
        shown.append(model.step(model.start(context), action, 0.3, noise=noise)[1])
    single, half, true = (frames.movedim(-1, 1) / 255 for frames in (*shown, real))
    assert psnr(float(squared_error(half, single).mean())) > 36
    assert squared_error(half, true).mean() < 1.25 * squared_error(single, true).mean()  # within a decibel


def _context_and_action(start: StartState) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(start.frames), torch.from_numpy(start.actions[0])


@pytest.mark.native
@pytest.mark.parametrize("what", ["norm.weight", "lm_head.weight", "layers.0.mlp.gate_proj.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_model_samples_codes_that_exist(what: str, value: float) -> None:
    shape = Shape(codes=37)
    transformer = shape.transformer()
    dict(transformer.llm.named_parameters())[what if what.startswith("lm") else f"model.{what}"].fill_(value)
    for top_k in (1, 5, 37):
        frame = advance(transformer, aligned(transformer, 3), torch.rand(3, shape.tokens), top_k=top_k)
        assert 0 <= frame.codes.min() <= frame.codes.max() < shape.codes
        assert frame.uncertainty.isnan().all()


@pytest.mark.native
@pytest.mark.parametrize("size", [1e6, 3e38])
def test_huge_actions_sample_codes_that_exist(size: float) -> None:
    transformer = Shape().transformer()
    frame = advance(transformer, aligned(transformer, 3), torch.rand(3, 4), action=torch.full((3, 3), size))
    assert 0 <= frame.codes.min() <= frame.codes.max() < 37


@pytest.mark.native
def test_extreme_sampling() -> None:
    transformer, uniforms = Shape().transformer(), torch.rand(3, 4)
    past = aligned(transformer, 3)

    def codes(temperature: float, top_k: int) -> Tensor:
        return advance(transformer, past.select(range(3)), uniforms, temperature, top_k).codes

    assert torch.equal(codes(1.0, 2**70), codes(1.0, 37))
    assert torch.equal(codes(1e-9, 37), codes(1.0, 1))
    last = torch.full((3, 4), 1.0).nextafter(torch.zeros(1))
    unlikely = advance(transformer, past.select(range(3)), last, 1e30, 37).codes
    assert not torch.equal(unlikely, codes(1.0, 1))


@pytest.mark.native
def test_a_cache_that_is_full_is_not_overrun() -> None:
    transformer = Shape().transformer()
    layout = transformer.layout
    cache = read_context(transformer, torch.zeros(1, 2, 5, dtype=torch.int64), layout.length(1))
    advance(transformer, cache, torch.rand(1, 4))
    with pytest.raises(InvalidBuffer, match="expected 5 free positions in every row, got 0 of 16"):
        advance(transformer, cache, torch.rand(1, 4))


@pytest.mark.native
@pytest.mark.parametrize(("rows", "uniforms"), [(2, (3, 4)), (3, (2, 4)), (3, (3, 3))])
def test_inputs_of_another_size_are_refused(rows: int, uniforms: tuple[int, int]) -> None:
    transformer = Shape().transformer()
    past = aligned(transformer, 3)
    with pytest.raises(InvalidBuffer, match=r"(slots|uniforms): expected \d+ elements of torch.float32 on cpu"):
        sample_codes(transformer, past, torch.zeros(rows, 32), torch.zeros(uniforms), temperature=1.0, top_k=1)
    assert past.lengths == [transformer.layout.prefix_length] * 3


@pytest.mark.native
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_a_cache_of_another_dtype_is_not_used(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    transformer = Shape().transformer().to(dtypes[0])
    past = aligned(transformer, 3)
    transformer.to(dtypes[1])
    slots = torch.zeros(3, 32, dtype=dtypes[1])
    assert sample_codes(transformer, past, slots, torch.zeros(3, 4), 1.0, 1) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_use_the_eager_path(dtype: torch.dtype) -> None:
    transformer = Shape().transformer().to(dtype)
    past, slots = aligned(transformer, 2), torch.zeros(2, 32, dtype=dtype)
    assert sample_codes(transformer, past, slots, torch.zeros(2, 4), 1.0, 1) is None
    assert advance(transformer, past, torch.rand(2, 4), action=torch.zeros(2, 3, dtype=dtype)).codes.shape == (2, 4)


@pytest.mark.native
@pytest.mark.parametrize("refuses", ["-fnone", "-fopenmp", "-march=*", "-march=*|-fopenmp"])
def test_compilers_without_some_flags(
    unbuilt: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_compiler: Callable[[str, str], str],
    refuses: str,
) -> None:
    monkeypatch.setenv("CC", make_compiler(refuses, "-O0"))
    assert native.library() is not None
    assert [path.suffix for path in unbuilt.iterdir()] == [".so"]
    assert unbuilt.stat().st_mode & 0o077 == 0  # nobody else may put a library there
    shape = Shape(batch=2, top_k=1)
    transformer, uniforms = shape.transformer(), torch.rand(2, FRAMES, 4)
    past = aligned(transformer, 2)
    compiled = imagine_all(shape, transformer, past, uniforms)
    with plainly():
        assert_same(compiled, imagine_all(shape, transformer, past, uniforms))


@pytest.mark.native
@pytest.mark.skipif(platform.machine() != "x86_64", reason="narrows the registers of this processor only")
@pytest.mark.parametrize("flags", ["-mno-avx512f", "-mno-avx"])
def test_narrower_registers(
    unbuilt: Path, monkeypatch: pytest.MonkeyPatch, make_compiler: Callable[[str, str], str], flags: str
) -> None:
    monkeypatch.setenv("CC", make_compiler("-fnone", flags))
    shape = Shape(batch=5, heads=3, key_value_heads=1, head_dim=10, mlp=47, top_k=1)
    transformer, uniforms = shape.transformer(), torch.rand(5, FRAMES, 4)
    past = unaligned(transformer, 5)
    compiled = imagine_all(shape, transformer, past, uniforms)
    with plainly():
        assert_same(compiled, imagine_all(shape, transformer, past, uniforms))
    slots = torch.randn(5, 30)
    together = sample_codes(transformer, past.select(range(5)), slots, uniforms[:, 0], 1.0, 9)
    for row in range(5):
        one = slice(row, row + 1)
        alone = sample_codes(transformer, past.select([row]), slots[one], uniforms[one, 0], 1.0, 9)
        assert together is not None
        assert alone is not None
        for tensor, other in zip(alone, together, strict=True):
            assert torch.equal(tensor, other[one])
