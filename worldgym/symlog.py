"""The transform under which rewards are learned, and its inverse (paper, appendix A.5)."""

from torch import Tensor


def symlog(values: Tensor) -> Tensor:
    """``sign(x) log(1 + |x|)``, of any shape."""
    return values.sign() * values.abs().log1p()


def symexp(values: Tensor) -> Tensor:
    """``sign(x) (exp(|x|) - 1)``, the inverse of :func:`symlog`."""
    return values.sign() * values.abs().expm1()
