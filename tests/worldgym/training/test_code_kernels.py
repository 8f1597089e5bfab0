import numpy as np
import pytest
import torch

from worldgym.training.code_kernels import CodeKernels, code_kernel, fitting_width


def test_kernel_prefers_near_codes_and_sums_to_one() -> None:
    codebook = torch.tensor([[0.0, 0.0], [0.1, 0.0], [1.0, 0.0]])
    kernel = code_kernel(codebook, 0.1)
    torch.testing.assert_close(kernel.sum(1), torch.ones(3))
    assert kernel[0, 1] / kernel[0, 0] == pytest.approx(np.exp(-0.5), rel=1e-4)
    assert kernel[0, 2] < 1e-12


@pytest.mark.parametrize("size", [20, 2100])  # with a table of all rows, and without one
def test_kernels_follow_a_codebook_that_changes_and_compute_nothing_twice(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codebook = torch.randn(size, 3, generator=torch.Generator().manual_seed(0))
    codes = torch.tensor([[1, 5], [1, 2]])
    kernels, computed = CodeKernels(label_width=0.5, noise_width=0.0), []
    plain = code_kernel

    def counted(codebook: torch.Tensor, width: float, rows: torch.Tensor | None) -> torch.Tensor:
        computed.append(plain(codebook, width, rows))
        return computed[-1]

    monkeypatch.setattr("worldgym.training.code_kernels.code_kernel", counted)
    for _ in range(2):
        torch.testing.assert_close(kernels.targets(codebook, codes), plain(codebook, 0.5)[codes])
    assert [len(rows) for rows in computed] == ([20] if size == 20 else [3, 3])  # never a matrix of 2100 x 2100
    codebook[1] += 1.0
    torch.testing.assert_close(kernels.targets(codebook, codes), plain(codebook, 0.5)[codes])


def test_paper_targets_need_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldgym.training.code_kernels.code_kernel", None)
    codes = torch.tensor([[1, 5]])
    kernels = CodeKernels(label_width=0.0, noise_width=0.0)
    assert kernels.targets(torch.zeros(8192, 64), codes) is None
    assert kernels.add_noise(torch.zeros(8192, 64), codes, np.random.default_rng(0)) is codes


def test_a_fitting_width_has_the_given_perplexity() -> None:
    codebook = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    codes = torch.randint(64, (300,), generator=torch.Generator().manual_seed(1))
    width = fitting_width(codebook, codes, 8.0)
    kernel = code_kernel(codebook, width, codes)
    entropy = -torch.special.xlogy(kernel, kernel).sum(1).mean()
    assert entropy.exp().item() == pytest.approx(8, rel=1e-3)
