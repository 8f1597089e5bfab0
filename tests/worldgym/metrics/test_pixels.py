import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldgym.metrics.pixels import psnr, r_squared, squared_error


def test_psnr_of_known_errors() -> None:
    assert psnr(1.0) == 0
    assert psnr(0.01) == pytest.approx(20)
    assert psnr(0.0) == math.inf


@given(st.floats(1e-8, 1), st.floats(1e-8, 1))
def test_smaller_errors_never_have_smaller_psnr(first: float, second: float) -> None:
    small, large = sorted((first, second))
    assert psnr(small) >= psnr(large)
    assert psnr(small / 2) > psnr(large)


def test_the_error_of_a_frame_is_its_mean_squared_error() -> None:
    real = torch.zeros(2, 3, 3, 4, 4)
    made = real.clone()
    made[1, 2] = 0.5
    made[0, 0, 0] = 1.0
    expected = torch.zeros(2, 3, dtype=torch.float64)
    expected[1, 2], expected[0, 0] = 0.25, 1 / 3
    torch.testing.assert_close(squared_error(made, real), expected)


def test_r_squared_of_known_predictions() -> None:
    real = torch.tensor([1.0, 2.0, 3.0])
    assert r_squared(real, real) == 1
    assert r_squared(torch.full((3,), 2.0), real) == 0
    assert r_squared(torch.tensor([1.0, 2.0, 4.0]), real) == pytest.approx(0.5)
    assert r_squared(real.flip(0), real) == pytest.approx(-3)


@pytest.mark.parametrize("count", [1, 3])
def test_r_squared_of_a_constant_is_not_a_number(count: int) -> None:
    assert math.isnan(r_squared(torch.ones(count), torch.ones(count)))
    assert math.isnan(r_squared(torch.zeros(count), torch.ones(count)))


def test_r_squared_is_exact_for_large_rewards() -> None:
    real = 10_000 + torch.linspace(0, 1, 60)
    assert r_squared(real + 0.01, real) == pytest.approx(0.9988, abs=1e-3)


@pytest.mark.parametrize("shape", [(3, 1), (1,), (1, 3)])
def test_r_squared_does_not_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected shapes that are equal"):
        r_squared(torch.zeros(shape), torch.ones(3))
