"""How well scores rank cases."""

import numpy as np
import pytest

from worldgym.metrics.ranking import auroc, bootstrap, pearson, ranks, spearman


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 6, 60) / 5, rng.random(60) < 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert auroc(scores, positive) == pytest.approx(np.mean(pairs))
    assert auroc(np.array([0.1, 0.9]), np.array([False, True])) == 1.0


def test_equal_values_share_their_mean_rank() -> None:
    assert ranks(np.array([5.0, 1.0, 5.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_spearman_asks_for_order_alone() -> None:
    first = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(first, np.exp(first)) == pytest.approx(1)
    assert pearson(first, np.exp(first)) < 1
    assert spearman(first, -first) == pytest.approx(-1)
    assert np.isnan(spearman(first, np.ones(4)))


def test_a_bootstrap_interval_holds_the_value_and_shrinks() -> None:
    rng = np.random.default_rng(0)
    first = rng.standard_normal(200)
    second = first + rng.standard_normal(200)
    few, many = (bootstrap(pearson, first[:count], second[:count]) for count in (20, 200))
    for found in (few, many):
        assert found.low <= found.value <= found.high
    assert many.high - many.low < few.high - few.low
    assert many == bootstrap(pearson, first, second)
