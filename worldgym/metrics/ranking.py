"""How well scores rank cases."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def auroc(scores: NDArray[np.floating[Any]], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a positive case has the higher score; ties count half.

    Args:
        scores: any shape.
        positive: bool, the same shape, with True and False in it.
    """
    _, inverse, counts = np.unique(scores.ravel(), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse.ravel()]  # mean rank of equal scores, from 1
    flags = positive.ravel()
    positives, negatives = int(flags.sum()), int((~flags).sum())
    return float((ranks[flags].sum() - positives * (positives + 1) / 2) / (positives * negatives))
