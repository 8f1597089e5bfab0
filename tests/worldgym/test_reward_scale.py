"""The outputs of a reward head and their meaning."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldgym.reward_scale import RewardScale
from worldgym.symlog import symexp, symlog

BINNED = RewardScale.of(torch.tensor([-3.0, 0.0, 50.0]), "symlog", 21)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-3, 50, width=32), min_size=1, max_size=5), st.sampled_from(["symlog", "identity"]))
def test_the_mean_of_the_target_bins_is_the_reward(values: list[float], transform: str) -> None:
    rewards = torch.tensor(values)
    scale = RewardScale.of(torch.tensor([-3.0, 50.0]), transform, 21)
    targets = scale.targets(rewards)
    assert targets.shape == (len(values), 21)
    assert ((targets > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(scale.decode(targets.clamp(min=1e-30).log()), rewards, atol=1e-3, rtol=1e-4)


def test_without_bins_the_target_is_the_transformed_reward() -> None:
    rewards = torch.tensor([[1.0, -2.0], [0.0, 9.0]])
    scale = RewardScale("symlog")
    assert scale.outputs == 1
    torch.testing.assert_close(scale.targets(rewards), symlog(rewards))
    torch.testing.assert_close(scale.decode(symlog(rewards)), rewards)
    torch.testing.assert_close(RewardScale("identity").decode(rewards), rewards)
    torch.testing.assert_close(scale.errors(symlog(rewards) + 2, rewards), torch.full((2, 2), 4.0))


def test_an_uncertain_head_decodes_to_the_mean_with_bins_alone() -> None:
    rewards = torch.tensor([0.0, 30.0])
    mean = BINNED.targets(rewards).mean(0)
    assert BINNED.decode(mean.clamp(min=1e-30).log()).item() == pytest.approx(15, abs=0.01)
    assert symexp(symlog(rewards).mean()).item() < 5


def test_rewards_beyond_the_bins_count_as_the_outermost() -> None:
    assert BINNED.targets(torch.tensor([-99.0, 99.0])).argmax(-1).tolist() == [0, 20]


def test_the_error_is_least_at_the_targets() -> None:
    rewards = torch.tensor([-1.0, 7.0])
    best = BINNED.targets(rewards).clamp(min=1e-30).log()
    assert (BINNED.errors(best, rewards) < BINNED.errors(torch.zeros(2, 21), rewards)).all()


@pytest.mark.parametrize(("rewards", "count"), [([2.0, 2.0], 21), ([0.0, 1.0], 0), ([0.0, 1.0], 1)])
def test_equal_rewards_and_few_bins_are_one_number(rewards: list[float], count: int) -> None:
    assert RewardScale.of(torch.tensor(rewards), "symlog", count).bins == ()
