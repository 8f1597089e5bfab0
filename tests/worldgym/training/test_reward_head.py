import pytest
import torch

from worldgym.training.reward_head import ridge


def test_ridge_finds_the_line() -> None:
    features = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight, bias = ridge(features, features @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 3)
    torch.testing.assert_close(weight, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), atol=0.01, rtol=0)
    assert bias.item() == pytest.approx(3, abs=0.01)
