"""Metrics of frames and rewards: squared error, PSNR and R².

They are computed in float64, and are defined for few and for constant values too: torchmetrics' ``r2_score`` gives 0
instead of 0.999 for float32 rewards around 10,000, 1 for constant rewards, and an error for a single one.
"""

import math

from torch import Tensor


def squared_error(predicted: Tensor, real: Tensor) -> Tensor:
    """Mean squared error of each frame.

    The PSNR of the *pooled* error, ``psnr(squared_error(...).mean())``, is not dominated by frames in which nothing
    moves; the mean of the PSNRs of frames is.

    Args:
        predicted: frames ``[..., 3, H, W]`` in [0, 1].
        real: frames of the same shape.

    Returns:
        float64 ``[...]``.
    """
    return (predicted.double() - real.double()).square().mean(dim=(-3, -2, -1))


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio.

    Args:
        error: mean squared error of frames in [0, 1].

    Returns:
        The ratio in dB; infinity for an error of 0. JSON files hold null in its place.
    """
    return math.inf if error <= 0 else -10 * math.log10(error)


def r_squared(predicted: Tensor, real: Tensor) -> float:
    """Coefficient of determination: the share of the variance of ``real`` that ``predicted`` explains.

    Args:
        predicted: numbers ``[N]``.
        real: numbers ``[N]``.

    Returns:
        1 if all predictions are exact, 0 if they are as good as the mean, negative if they are worse; NaN if all of
        ``real`` are equal. JSON files hold null in place of NaN.

    Raises:
        ValueError: if the shapes differ: broadcasting would give another number.
    """
    if predicted.shape != real.shape:
        raise ValueError(f"expected shapes that are equal, got {list(predicted.shape)} and {list(real.shape)}")
    real, predicted = real.double(), predicted.double()
    residual = (real - predicted).square().sum()
    total = (real - real.mean()).square().sum()
    return float(1 - residual / total) if total > 0 else math.nan
