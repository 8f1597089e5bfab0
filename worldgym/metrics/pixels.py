"""Pixel metrics on frames in [0, 1]."""

import math

import torch
from torch import Tensor


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error on frames in [0, 1]."""
    return math.inf if error <= 0 else -10 * math.log10(error)


def squared_error(predicted: Tensor, real: Tensor) -> Tensor:
    """Mean squared error of each frame: ``[..., 3, H, W]`` to float64 ``[...]``.

    PSNR of the *pooled* error, ``psnr(squared_error(...).mean())``, lets no motionless frame dominate; the mean of
    per-frame PSNRs does.
    """
    return (predicted.double() - real.double()).square().mean(dim=(-3, -2, -1))


def r_squared(predicted: Tensor, real: Tensor) -> float:
    """Share of the variance of ``real`` that ``predicted`` explains; 1 is perfect, 0 as good as the mean."""
    real, predicted = real.double(), predicted.double()
    residual = (real - predicted).square().sum()
    total = (real - real.mean()).square().sum()
    return float(1 - residual / total) if total > 0 else float(torch.nan)
