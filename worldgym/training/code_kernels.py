"""Gaussian kernels in code space: soft targets for codes, and noise on the codes in the input.

Codes that are close to each other look the same. Which of them the tokenizer chose cannot be predicted and does not
matter.
"""

import numpy as np
import torch
from torch import Tensor

from worldgym.parallel import WHOLE, Part

LARGEST_TABLE = 2048  # codes; of a larger codebook only the rows in use are computed


def code_kernel(codebook: Tensor, width: float, rows: Tensor | None = None) -> Tensor:
    """For each code a Gaussian over all codes, normalised to sum 1.

    Args:
        codebook: ``[K, D]``.
        width: standard deviation of the Gaussian in code space, above 0.
        rows: int64 ``[N]``, the codes to compute; all unless given.

    Returns:
        float32 ``[N, K]``, on the codebook's device.
    """
    vectors = codebook.detach().to(torch.float32)
    distance = torch.cdist(vectors if rows is None else vectors[rows], vectors)
    return torch.softmax(-0.5 * (distance / width).square(), dim=1)


def fitting_width(codebook: Tensor, codes: Tensor, perplexity: float) -> float:
    """The width at which the kernels of some codes spread over a given number of codes, in the geometric mean.

    Args:
        codebook: ``[K, D]``.
        codes: int64, any shape: those in use, as often as they are used.
        perplexity: number of codes, above 1 and below K.

    Returns:
        The width, in code space.
    """
    used, counts = codes.unique(return_counts=True)
    weights = counts.double() / counts.sum()
    low, high = 0.0, float(torch.cdist(codebook.detach().float(), codebook.detach().float()).max())
    for _ in range(40):
        width = (low + high) / 2
        kernel = code_kernel(codebook, max(width, 1e-9), used).double()
        entropy = -(torch.special.xlogy(kernel, kernel).sum(1) * weights.to(kernel.device)).sum()
        low, high = (low, width) if float(entropy.exp()) > perplexity else (width, high)
    return high


class CodeKernel:
    """The kernel of one width over a codebook that may change. It is computed again only after a change.

    Args:
        width: as for :func:`code_kernel`.
        cumulative: whether rows are cumulative sums.
    """

    def __init__(self, width: float, cumulative: bool = False) -> None:
        self._width, self._cumulative = width, cumulative
        self._version: tuple[int, int] | None = None
        self._table = torch.empty(0)

    def rows(self, codebook: Tensor, codes: Tensor) -> Tensor:
        """The rows of some codes.

        Args:
            codebook: ``[K, D]``.
            codes: int64 ``[...]``.

        Returns:
            float32 ``[..., K]``.
        """
        if len(codebook) > LARGEST_TABLE:
            used, index = codes.unique(return_inverse=True)
            return self._compute(codebook, used)[index]
        version = codebook.data_ptr(), codebook._version  # PyTorch counts the in-place changes of a tensor
        if version != self._version:
            self._table, self._version = self._compute(codebook, None), version
        return self._table[codes]

    def _compute(self, codebook: Tensor, rows: Tensor | None) -> Tensor:
        kernel = code_kernel(codebook, self._width, rows)
        return kernel.cumsum(1) if self._cumulative else kernel


class CodeKernels:
    """Kernels of a loss: one for the targets, one for the input.

    Args:
        label_width: the target of a code is a Gaussian of this width around it; 0 is the code alone (paper).
        noise_width: codes of the input are sampled from such a Gaussian around the true codes; 0 uses the true codes
            (paper).
    """

    def __init__(self, label_width: float, noise_width: float) -> None:
        self._labels = CodeKernel(label_width) if label_width else None
        self._noise = CodeKernel(noise_width, cumulative=True) if noise_width else None

    def targets(self, codebook: Tensor, codes: Tensor) -> Tensor | None:
        """Target distributions.

        Args:
            codebook: ``[K, D]``.
            codes: int64 ``[...]``.

        Returns:
            float32 ``[..., K]``; None if each target is the code alone.
        """
        return None if self._labels is None else self._labels.rows(codebook, codes)

    def add_noise(self, codebook: Tensor, codes: Tensor, rng: np.random.Generator, part: Part = WHOLE) -> Tensor:
        """Codes for the input.

        Args:
            codebook: ``[K, D]``.
            codes: int64 ``[...]``.
            rng: source of randomness.
            part: of the batch, in which the codes are; the noise is drawn for the whole batch.

        Returns:
            Codes with noise, int64 of the same shape; ``codes`` itself if there is no noise.
        """
        if self._noise is None:
            return codes
        rows = len(codes) * part.count
        drawn = rng.random((rows, *codes.shape[1:], 1), np.float32)[part.of(rows)]
        uniforms = torch.from_numpy(drawn).to(codes.device)
        sampled = torch.searchsorted(self._noise.rows(codebook, codes), uniforms).squeeze(-1)
        return sampled.clamp(max=len(codebook) - 1)
