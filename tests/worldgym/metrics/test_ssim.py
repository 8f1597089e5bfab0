import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from worldgym.metrics.pixels import psnr, squared_error
from worldgym.metrics.ssim import ssim


@pytest.fixture(scope="module")
def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth images and noisy ones, ``[2, 3, 3, 24, 40]``."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.linspace(0, 1, 24)[:, None] * torch.linspace(0, 1, 40)
    first = rows * torch.rand(2, 3, 3, 1, 1, generator=generator)
    return first, (first + 0.1 * torch.randn(2, 3, 3, 24, 40, generator=generator)).clamp(0, 1)


def test_equals_scikit_image(pairs: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, second = pairs
    found = ssim(first, second)
    assert found.shape == (2, 3)
    options = {"channel_axis": 0, "data_range": 1.0, "gaussian_weights": True, "use_sample_covariance": False}
    for index in np.ndindex(2, 3):
        a, b = first[index].double().numpy(), second[index].double().numpy()
        assert float(found[index]) == pytest.approx(structural_similarity(a, b, sigma=1.5, **options), abs=1e-4)
        expected = peak_signal_noise_ratio(a, b, data_range=1.0)
        assert psnr(float(squared_error(first[index], second[index]))) == pytest.approx(expected, abs=1e-4)


def test_equal_images(pairs: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch.testing.assert_close(ssim(pairs[1], pairs[1]), torch.ones(2, 3))


def test_images_that_are_too_small_or_differ_in_shape_are_refused() -> None:
    for first, second in (
        (torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)),
        (torch.zeros(3, 16, 16), torch.zeros(3, 16, 12)),
    ):
        with pytest.raises(ValueError, match="expected images of one shape, of at least 11 pixels"):
            ssim(first, second)
