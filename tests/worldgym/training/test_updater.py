import math

import pytest
import torch
from torch import nn

from worldgym.errors import TrainingError
from worldgym.training.updater import SLOW_FACTOR, Updater


def make(weight_decay: float = 0.0) -> tuple[nn.Sequential, Updater]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(2, 3), nn.LayerNorm(3), nn.Linear(3, 2), nn.Linear(2, 1))
    return module, Updater(module, 0.1, lambda updates: 1 / (updates + 1), 1.0, weight_decay, slow=module[3])


def loss(module: nn.Module, factor: float = 1.0) -> torch.Tensor:
    total: torch.Tensor = module(torch.tensor([0, 1])).square().sum() * factor
    return total


def changes(module: nn.Module, updater: Updater, value: torch.Tensor) -> dict[str, float]:
    """Mean absolute change of each parameter by one update."""
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    updater.update(value)
    return {name: (before[name] - parameter).abs().mean().item() for name, parameter in module.named_parameters()}


def test_updates_follow_the_schedule() -> None:
    module, updater = make()
    rates = []
    for _ in range(3):
        rates.append(updater.learning_rate)
        updater.update(loss(module))
    assert rates == pytest.approx([0.1, 0.05, 0.1 / 3])
    assert updater.updates == 3


def test_slow_part_has_a_fraction_of_the_learning_rate() -> None:
    module, updater = make()
    found = changes(module, updater, sum((part.sum() for part in module.parameters()), torch.zeros(())))
    for name, change in found.items():
        assert change == pytest.approx(0.1 * SLOW_FACTOR if name.startswith("3.") else 0.1, rel=1e-3)


def test_only_matrices_decay() -> None:
    module, updater = make(weight_decay=0.5)
    found = changes(module, updater, loss(module, 0.0))
    assert {name for name, change in found.items() if change} == {"2.weight"}


def test_large_gradients_are_scaled_down() -> None:
    module, updater = make()
    assert updater.update(loss(module, 1000.0)) > 100
    norms = [parameter.grad.norm() for parameter in module.parameters() if parameter.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_diverged_training_raises_and_changes_nothing(factor: float) -> None:
    module, updater = make()
    updater.update(loss(module))
    before = {name: value.clone() for name, value in (module.state_dict() | updater.state_dict()).items()}
    with pytest.raises(TrainingError, match=r"Training diverged at update 1 of Sequential.*learning rate below 0.1"):
        updater.update(loss(module, factor))
    after = module.state_dict() | updater.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert updater.updates == 1


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_resumed_updates_are_bit_identical(stop: int) -> None:
    (first, one), (second, two) = make(0.1), make(0.1)
    for _ in range(stop):
        one.update(loss(first))
    second.load_state_dict(first.state_dict())
    two.load_state_dict(one.state_dict(), one.updates)
    for _ in range(3):
        assert one.learning_rate == two.learning_rate
        one.update(loss(first))
        two.update(loss(second))
    assert all(torch.equal(first.state_dict()[name], value) for name, value in second.state_dict().items())
