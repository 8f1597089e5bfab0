import pytest
import torch

from worldgym.symlog import symexp, symlog

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def test_symexp_is_the_inverse_of_symlog() -> None:
    values = torch.tensor([-1e6, -3.0, -1e-4, 0.0, 0.5, 20.0, 1e8], dtype=torch.float64)
    torch.testing.assert_close(symexp(symlog(values)), values)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_symexp_is_finite_however_large_its_input(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    values = torch.tensor([-float("inf"), -largest, -800.0, 800.0, largest, float("inf")], dtype=dtype)
    result = symexp(values)
    assert result.dtype == dtype
    assert result.isfinite().all()
    assert (result[3:] > 0.1 * largest**0.99).all()
    assert torch.equal(result[:3], -result[3:].flip(0))


def test_symexp_keeps_nan() -> None:
    assert symexp(torch.tensor([float("nan"), 1.0])).isnan().tolist() == [True, False]


def test_gradients_stay_finite() -> None:
    values = torch.tensor([200.0, 1.0], requires_grad=True)
    symexp(values).sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()
