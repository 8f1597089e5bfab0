"""How well scores rank cases."""

import numpy as np
import pytest

from worldgym.metrics.ranking import auroc


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 6, 60) / 5, rng.random(60) < 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert auroc(scores, positive) == pytest.approx(np.mean(pairs))
    assert auroc(np.array([0.1, 0.9]), np.array([False, True])) == 1.0
