from typing import Any

import pytest
import torch
from torch import nn

from worldgym.errors import CheckpointError
from worldgym.storage.optimizer import load_optimizer_state_dict, optimizer_state_dict


def make() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    groups: list[dict[str, Any]] = [
        {"params": model[1].parameters(), "lr": 0.1},
        {"params": model[0].parameters()},
    ]  # not in order
    return model, torch.optim.Adam(groups, lr=0.01)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for index in range(count):
        optimizer.zero_grad()
        model(torch.full((1, 3), float(index + 1))).sum().backward()
        optimizer.step()


def test_loaded_optimizer_continues_exactly() -> None:
    (first, one), (second, two) = make(), make()
    step(first, one, 3)
    state = optimizer_state_dict(one, dict(first.named_parameters()))
    assert state["1.weight.exp_avg"].shape == (1, 2)
    second.load_state_dict(first.state_dict())
    load_optimizer_state_dict(two, dict(second.named_parameters()), state)
    step(first, one, 2)
    step(second, two, 2)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert [group["lr"] for group in two.param_groups] == [0.1, 0.01]


def test_untrained_parameters_have_no_entries() -> None:
    model, optimizer = make()
    assert optimizer_state_dict(optimizer, dict(model.named_parameters())) == {}
    load_optimizer_state_dict(optimizer, dict(model.named_parameters()), {})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("2.weight.exp_avg", torch.zeros(2, 3), "no parameter '2.weight'"),
        ("0.weight.exp_avg", torch.zeros(5), r"expected shape \[2, 3\], got \[5\]"),
    ],
)
def test_state_that_does_not_fit_raises(key: str, value: torch.Tensor, message: str) -> None:
    model, optimizer = make()
    with pytest.raises(CheckpointError, match=message):
        load_optimizer_state_dict(optimizer, dict(model.named_parameters()), {key: value})
