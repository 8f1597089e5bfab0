"""SSIM (Wang et al. 2004) with the usual settings: a Gaussian window of 11 pixels, K1 = 0.01, K2 = 0.03."""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity of images, averaged over colours and over the places where the window fits.

    Args:
        first: images ``[..., 3, H, W]`` in [0, 1], of at least 11 pixels in height and width.
        second: images of the same shape.

    Returns:
        float32 ``[...]``: 1 for equal images.

    Raises:
        ValueError: for shapes that differ, or images that are smaller than the window.
    """
    if first.shape != second.shape or min(first.shape[-2:]) < WINDOW:
        raise ValueError(
            f"expected images of one shape, of at least {WINDOW} pixels a side, got {list(first.shape)} and "
            f"{list(second.shape)}"
        )
    a, b = (image.float().reshape(-1, 1, *image.shape[-2:]) for image in (first, second))
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a, variance_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * covariance + C2) / (variance_a + variance_b + C2)
    return (luminance * structure).mean(dim=(1, 2, 3)).reshape(first.shape[:-2]).mean(dim=-1)


def _blur(images: Tensor) -> Tensor:
    """Gaussian means ``[N, 1, H - 10, W - 10]`` of images ``[N, 1, H, W]``."""
    places = torch.arange(WINDOW, device=images.device, dtype=torch.float32) - WINDOW // 2
    weights = torch.exp(-(places**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    return F.conv2d(F.conv2d(images, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
