"""How well scores rank cases."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]


class Interval(NamedTuple):
    """A figure with a bootstrap interval."""

    value: float
    low: float
    high: float


def ranks(values: Values) -> NDArray[np.float64]:
    """The rank of each value, from 1; equal values share their mean rank. Shapes ``[N]``."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def auroc(scores: Values, positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a positive case has the higher score; ties count half.

    Args:
        scores: any shape.
        positive: bool, the same shape, with True and False in it.
    """
    flags = positive.ravel()
    positives, negatives = int(flags.sum()), int((~flags).sum())
    total = ranks(scores.ravel())[flags].sum()
    return float((total - positives * (positives + 1) / 2) / (positives * negatives))


def pearson(first: Values, second: Values) -> float:
    """Correlation of two series ``[N]``; NaN if one of them does not vary."""
    if not first.std() > 0 or not second.std() > 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def spearman(first: Values, second: Values) -> float:
    """Rank correlation of two series ``[N]``; NaN if one of them does not vary."""
    return pearson(ranks(first), ranks(second))


def bootstrap(
    statistic: Callable[[Values, Values], float], first: Values, second: Values, draws: int = 1000, seed: int = 0
) -> Interval:
    """A statistic of two series ``[N]`` with its 95 % interval over samples of their pairs, drawn with replacement."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(first), size=(draws, len(first)))
    found = np.array([statistic(first[pick], second[pick]) for pick in picks])
    finite = found[np.isfinite(found)]
    low, high = np.quantile(finite, (0.025, 0.975)) if len(finite) else (float("nan"), float("nan"))
    return Interval(statistic(first, second), float(low), float(high))
