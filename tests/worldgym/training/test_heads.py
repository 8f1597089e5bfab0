import pytest
import torch

from worldgym.training.heads import logistic, ridge


def test_ridge_finds_the_line() -> None:
    features = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight, bias = ridge(features, features @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 3)
    torch.testing.assert_close(weight, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), atol=0.01, rtol=0)
    assert bias.item() == pytest.approx(3, abs=0.01)


def test_logistic_regression_is_calibrated() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4000, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 10.0, 0.1]) + 2
    logits = features @ torch.tensor([1.0, -0.1, 5.0], dtype=torch.float64) - 16
    events = (torch.rand(4000, generator=generator, dtype=torch.float64) < logits.sigmoid()).double()
    weight, bias = logistic(features, events)
    predicted = (features @ weight + bias).sigmoid()
    assert predicted.mean().item() == pytest.approx(events.mean().item(), abs=1e-4)
    assert (predicted - logits.sigmoid()).abs().mean() < 0.02


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_event_that_never_or_always_occurs_has_a_finite_logit(value: float) -> None:
    features = torch.randn(100, 3, dtype=torch.float64)
    weight, bias = logistic(features, torch.full((100,), value, dtype=torch.float64))
    assert not weight.any()
    assert abs(bias.sigmoid().item() - value) == pytest.approx(0.005)
