"""FVD (Unterthiner et al. 2018): the Fréchet distance between two Gaussians, fitted to features of videos.

The features are those of :mod:`worldgym.metrics.i3d`, or of any other function.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Matrix = NDArray[np.float64]


class Gaussian:
    """Mean and covariance of features that arrive some at a time, in float64.

    Attributes:
        count: number of features so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: Matrix = np.zeros(0)
        self._scatter: Matrix = np.zeros((0, 0))

    def add(self, features: Tensor) -> None:
        """Take features ``[N, D]`` into account."""
        values = features.detach().to("cpu", torch.float64).numpy()
        if not self.count:
            self._mean, self._scatter = np.zeros(values.shape[1]), np.zeros((values.shape[1],) * 2)
        # Merging of two sets by their means (Chan et al.), because sums of squares would cancel.
        total, mean = self.count + len(values), values.mean(axis=0)
        centred, shift = values - mean, mean - self._mean
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self.count * len(values) / total)
        self._mean += shift * (len(values) / total)
        self.count = total

    @property
    def mean(self) -> Matrix:
        """Float64 ``[D]``."""
        return self._mean

    @property
    def covariance(self) -> Matrix:
        """Float64 ``[D, D]``, the sum of squares divided by the count, as the public code of FVD has it."""
        return self._scatter / max(1, self.count)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """The squared Fréchet distance: ``|m1 - m2|² + trace(S1 + S2 - 2 (S1 S2)^(1/2))``.

    The trace of the root is that of ``(R S2 R)^(1/2)``, where R is the root of S1. This matrix is symmetric, so that
    its eigenvalues are real and exact, also where there are fewer features than dimensions.

    Args:
        first: of one set of videos.
        second: of another.

    Raises:
        ValueError: for a set without features, or features of different length.
    """
    if not first.count or not second.count or first.mean.shape != second.mean.shape:
        raise ValueError(
            f"expected features of one length, got {first.count} of shape {first.mean.shape} and {second.count} of "
            f"shape {second.mean.shape}"
        )
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    product = root @ second.covariance @ root
    trace = np.sqrt(np.clip(np.linalg.eigvalsh((product + product.T) / 2), 0, None)).sum()
    distance = np.square(first.mean - second.mean).sum()
    return float(distance + np.trace(first.covariance) + np.trace(second.covariance) - 2 * trace)
