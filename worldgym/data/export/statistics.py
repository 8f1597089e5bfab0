"""Statistics of features, as LeRobot stores them: lists of numbers by name.

The names are ``min``, ``max``, ``mean``, ``std`` (of the population), ``count`` and the quantiles ``q01`` to ``q99``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
LEVELS = 256  # of a pixel
Statistics = dict[str, list[Any]]


def of_numbers(values: NDArray[Any]) -> Statistics:
    """Statistics of every part of a feature.

    Args:
        values: numbers or booleans, ``[N]`` or ``[N, A]``; N is at least 1.

    Returns:
        Lists of A numbers; ``count`` is ``[N]``.
    """
    numbers = values.reshape(len(values), -1).astype(np.float64)
    quantiles = np.quantile(numbers, list(QUANTILES.values()), axis=0)
    parts = {
        "min": numbers.min(axis=0),
        "max": numbers.max(axis=0),
        "mean": numbers.mean(axis=0),
        "std": numbers.std(axis=0),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }
    return {**{name: part.tolist() for name, part in parts.items()}, "count": [len(values)]}


def count_levels(frames: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often every level occurs in every channel.

    Args:
        frames: uint8 ``[N, H, W, 3]``.

    Returns:
        int64 ``[3, 256]``. Counts of several blocks of frames add up to those of all.
    """
    return np.stack([np.bincount(channel.reshape(-1), minlength=LEVELS) for channel in np.moveaxis(frames, -1, 0)])


def of_pixels(counts: NDArray[np.int64], frames: int) -> Statistics:
    """Statistics of the pixels of frames, scaled to [0, 1].

    Args:
        counts: how often every level occurs in every channel, int64 ``[3, 256]``.
        frames: number of frames.

    Returns:
        Lists ``[3][1][1]``, exact over all pixels; ``count`` is ``[frames]``.
    """
    levels = np.arange(LEVELS) / (LEVELS - 1)
    shares, reached = counts / counts.sum(axis=1, keepdims=True), counts.cumsum(axis=1)
    mean = shares @ levels
    parts = {
        "min": levels[(counts > 0).argmax(axis=1)],
        "max": levels[LEVELS - 1 - (counts[:, ::-1] > 0).argmax(axis=1)],
        "mean": mean,
        "std": np.sqrt((shares * (levels - mean[:, None]) ** 2).sum(axis=1)),
        **{name: levels[(reached >= part * reached[:, -1:]).argmax(axis=1)] for name, part in QUANTILES.items()},
    }
    return {**{name: part.reshape(3, 1, 1).tolist() for name, part in parts.items()}, "count": [frames]}
