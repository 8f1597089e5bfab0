import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldgym.metrics.pixels import psnr, r_squared, squared_error


def test_psnr_by_hand() -> None:
    assert psnr(1.0) == 0
    assert psnr(0.01) == pytest.approx(20)
    assert psnr(0.0) == math.inf


@given(st.floats(1e-8, 1), st.floats(1e-8, 1))
def test_smaller_errors_never_have_smaller_psnr(first: float, second: float) -> None:
    assert (first <= second) == (psnr(first) >= psnr(second))


def test_errors_are_means_over_each_frame() -> None:
    real = torch.zeros(2, 3, 3, 4, 4)
    made = real.clone()
    made[1, 2] = 0.5
    made[0, 0, 0] = 1.0
    expected = torch.zeros(2, 3, dtype=torch.float64)
    expected[1, 2], expected[0, 0] = 0.25, 1 / 3
    torch.testing.assert_close(squared_error(made, real), expected)


def test_r_squared_by_hand() -> None:
    real = torch.tensor([1.0, 2.0, 3.0])
    assert r_squared(real, real) == 1
    assert r_squared(torch.full((3,), 2.0), real) == 0
    assert r_squared(torch.tensor([1.0, 2.0, 4.0]), real) == pytest.approx(0.5)
    assert r_squared(real.flip(0), real) == pytest.approx(-3)


def test_r_squared_of_a_constant_is_undefined() -> None:
    assert math.isnan(r_squared(torch.ones(3), torch.ones(3)))
