import numpy as np
import pytest
import scipy.linalg
import torch

from worldgym.metrics.fvd import Gaussian, frechet_distance


def gaussian(features: torch.Tensor, size: int = 1000) -> Gaussian:
    found = Gaussian()
    for part in features.split(size):
        found.add(part)
    return found


def by_scipy(first: np.ndarray, second: np.ndarray) -> float:
    means, covariances = zip(
        *((each.mean(0), np.cov(each, rowvar=False, bias=True)) for each in (first, second)), strict=True
    )
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    shift = np.square(means[0] - means[1]).sum()
    return float(np.real(shift + np.trace(covariances[0] + covariances[1] - 2 * root)))


def test_equals_the_definition_by_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    for dimensions, scale in ((3, 1.0), (20, 10.0), (40, 0.01)):
        mixing = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
        first = scale * torch.randn(400, dimensions, generator=generator, dtype=torch.float64)
        second = 0.3 + 1.5 * scale * torch.randn(300, dimensions, generator=generator, dtype=torch.float64) @ mixing
        expected = by_scipy(first.numpy(), second.numpy())
        assert frechet_distance(gaussian(first), gaussian(second)) == pytest.approx(expected, rel=1e-4)


def test_means_and_covariances_do_not_depend_on_the_parts() -> None:
    features = 1e6 + torch.randn(37, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = features.numpy()
    for size in (1, 7, 37):
        found = gaussian(features, size)
        assert found.count == 37
        np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance, np.cov(values, rowvar=False, bias=True), rtol=1e-6, atol=1e-9)


def test_equal_sets_have_no_distance_also_with_fewer_features_than_dimensions() -> None:
    features = torch.randn(6, 50, generator=torch.Generator().manual_seed(2))
    assert frechet_distance(gaussian(features), gaussian(features, 2)) == pytest.approx(0, abs=1e-5)
    shifted = frechet_distance(gaussian(features), gaussian(features + 2))
    assert shifted == pytest.approx(50 * 4, rel=1e-5)


def test_sets_that_cannot_be_compared_are_refused() -> None:
    for first, second in ((Gaussian(), Gaussian()), (gaussian(torch.ones(3, 2)), gaussian(torch.ones(3, 4)))):
        with pytest.raises(ValueError, match="expected features of one length"):
            frechet_distance(first, second)
