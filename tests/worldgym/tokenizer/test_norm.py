"""norm_silu against PyTorch in float64, and PyTorch's own path where the library does not apply; LatentNorm."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from worldgym import native
from worldgym.tokenizer import norm as module
from worldgym.tokenizer.norm import LatentNorm, norm_silu

DTYPES = [torch.float32, torch.bfloat16]

SHAPES = st.tuples(
    st.integers(1, 5),  # batch
    st.sampled_from([1, 2, 3, 8]),  # groups
    st.sampled_from([1, 2, 5, 6, 7, 24, 33, 50]),  # channels of each: strips of many pixels, of one, and longer ones
    st.one_of(st.sampled_from([1, 64]), st.integers(2, 33)),
    st.one_of(st.sampled_from([1, 64]), st.integers(2, 33)),
)


def build(groups: int, channels: int, dtype: torch.dtype = torch.float32) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, channels)
    nn.init.normal_(norm.weight, std=2.0)
    nn.init.normal_(norm.bias)
    return norm.to(dtype)


def maps(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(dtype, memory_format=torch.channels_last)


def reference(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """In float64."""
    scale, shift = norm.weight.double(), norm.bias.double()
    return F.silu(torch.group_norm(x.double(), norm.num_groups, scale, shift, norm.eps))  # F's refuses single values


def never(*_: object) -> None:
    raise AssertionError("the other path was taken")


@pytest.mark.native
@settings(deadline=None, max_examples=40, derandomize=True)
@given(SHAPES, st.sampled_from(DTYPES), st.sampled_from([(0.0, 1.0), (1000.0, 1.0), (-3.0, 1e-4), (0.0, 1e5)]))
@example((2, 8, 6, 64, 64), torch.float32, (1000.0, 1.0))
@example((2, 1, 1, 64, 64), torch.float32, (1000.0, 0.0))
@torch.no_grad()
def test_the_result_is_group_norm_then_silu(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype, about: tuple[float, float]
) -> None:
    torch.manual_seed(0)
    batch, groups, size, height, width = shape
    norm, (mean, deviation) = build(groups, groups * size, dtype), about
    x = (mean + deviation * maps(batch, groups * size, height, width)).to(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "silu", never)
        y = norm_silu(norm, x)
    assert y.dtype is dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    rounding = 1e-5 if dtype is torch.float32 else 2**-8
    torch.testing.assert_close(y.double(), reference(norm, x), rtol=rounding, atol=1e-5)


@pytest.mark.native
@torch.no_grad()
def test_an_outlier_costs_no_precision() -> None:
    norm, x = build(2, 6), maps(1, 6, 64, 64)
    x[0, :, 0, 0] = 1e4
    torch.testing.assert_close(norm_silu(norm, x).double(), reference(norm, x), rtol=1e-5, atol=1e-5)


@pytest.mark.native
@settings(deadline=None, max_examples=25, derandomize=True)
@given(SHAPES, st.sampled_from(DTYPES))
@torch.no_grad()
def test_results_do_not_depend_on_batch_or_threads(
    threads_of: Callable[[int], AbstractContextManager[None]],
    shape: tuple[int, int, int, int, int],
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    batch, groups, size, height, width = shape
    norm, x = build(groups, groups * size, dtype), maps(batch, groups * size, height, width, dtype=dtype)
    with threads_of(1):
        wanted = norm_silu(norm, x)
    with threads_of(3), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NUMBERS_PER_THREAD", 1)
        assert torch.equal(norm_silu(norm, x), wanted)
    assert torch.equal(torch.cat([norm_silu(norm, row) for row in x.split(1)]), wanted)


@pytest.mark.native
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@torch.no_grad()
def test_nan_and_infinity_stay_in_their_group(value: float) -> None:
    norm, x = build(2, 6), maps(2, 6, 5, 5)
    x[1, 4, 2, 2] = value
    y = norm_silu(norm, x)
    assert y[1, 3:].isnan().all()
    y[1, 3:] = 0
    assert y.isfinite().all()


@pytest.mark.native
@torch.no_grad()
def test_an_empty_batch() -> None:
    assert norm_silu(build(2, 6), maps(0, 6, 5, 5)).shape == (0, 6, 5, 5)


@pytest.mark.parametrize(
    ("x", "weights"),
    [
        (torch.randn(2, 6, 5, 5), torch.float32),
        (maps(2, 6, 5, 5)[:, :, ::2], torch.float32),
        (torch.randn(2, 6, 5), torch.float32),
        (maps(2, 6, 5, 5).double(), torch.float64),
        (maps(2, 6, 5, 5, dtype=torch.bfloat16), torch.float32),
    ],
    ids=["plain order", "every other row", "no map", "float64", "mixed"],
)
@torch.no_grad()
def test_other_inputs_use_pytorch(x: Tensor, weights: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", never)
    norm = build(2, 6, weights)
    assert torch.equal(norm_silu(norm, x), F.silu(norm(x)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_use_pytorch(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", never)
    norm, x = build(2, 6, dtype), maps(2, 6, 5, 5, dtype=dtype).requires_grad_()
    inputs = x, norm.weight, norm.bias
    got, wanted = norm_silu(norm, x), F.silu(norm(x))
    assert torch.equal(got, wanted)
    for one, other in zip(*(torch.autograd.grad(y.square().sum(), inputs) for y in (got, wanted)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.no_grad()
def test_without_the_library_pytorch_is_used(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    norm, x = build(2, 6, dtype), maps(2, 6, 5, 5, dtype=dtype)
    monkeypatch.setenv(native.SWITCH, "0")
    native.library.cache_clear()
    try:
        assert torch.equal(norm_silu(norm, x), F.silu(norm(x)))
    finally:
        native.library.cache_clear()


def test_latents_have_mean_zero_and_length_one() -> None:
    norm = LatentNorm(4).train()
    latents = 5 + 1e-3 * torch.randn(64, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    vectors = norm(latents)
    assert vectors.shape == (64, 9, 4)
    torch.testing.assert_close(vectors.mean(dim=(0, 1)), torch.zeros(4), atol=1e-3, rtol=0)
    assert vectors.square().sum(-1).mean().item() == pytest.approx(1.0, rel=0.01)


def test_latent_norm_equals_batch_norm() -> None:
    norm, batch_norm = LatentNorm(4), nn.BatchNorm1d(4, eps=1e-10, affine=False, momentum=0.02)
    for _ in range(5):
        latents = torch.randn(8, 4, 3, 3)
        wanted = batch_norm(latents.flatten(2)).transpose(1, 2) * norm.scale
        assert torch.equal(norm(latents), wanted)
        norm.update()
    for name, value in batch_norm.state_dict().items():
        assert torch.equal(norm.norm.state_dict()[name], value)
    latents = torch.randn(2, 4, 3, 3)
    wanted = batch_norm.eval()(latents.flatten(2)).transpose(1, 2) * norm.scale
    torch.testing.assert_close(norm.eval()(latents), wanted)
