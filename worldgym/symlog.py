"""The transform under which rewards are learned, and its inverse (paper, appendix A.5)."""

import math

import torch
from torch import Tensor


def symlog(values: Tensor) -> Tensor:
    """``sign(x) log(1 + |x|)``, of any shape."""
    return values.sign() * values.abs().log1p()


def symexp(values: Tensor) -> Tensor:
    """``sign(x) (exp(|x|) - 1)``, the inverse of :func:`symlog`, of any shape.

    The result is finite for every number and for infinities: its size is limited to about the largest value of the
    dtype. NaN stays NaN.
    """
    limit = 0.999 * math.log(torch.finfo(values.dtype).max)
    return values.sign() * values.abs().clamp(max=limit).expm1()
