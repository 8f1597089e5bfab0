"""GroupNorm and the SiLU behind it, in one go where nothing is learned."""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldgym import native

THREAD = 2**16  # numbers that are worth a thread of their own


class _Norm(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "pixels", "channels", "groups", "half", "threads")),
        ("eps", ctypes.c_float),
        *((name, native.Pointer) for name in ("x", "weight", "bias", "y")),
    ]


def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """``silu(norm(x))`` of maps ``[N, c, h, w]``, in their dtype and memory format.

    On a CPU, channels-last maps in float32 or bfloat16 take the compiled path where no gradients are asked for:
    PyTorch's norm is slow in bfloat16, and of such maps it loses the digits of groups that lie far from zero.
    """
    fits = x.device.type == "cpu" and x.dtype in native.DTYPES and norm.weight.dtype is x.dtype and x.ndim == 4
    fits = fits and not torch.is_grad_enabled() and x.is_contiguous(memory_format=torch.channels_last)
    built = native.library() if fits else None
    if built is None:
        return F.silu(norm(x))
    weight, bias = norm.weight.contiguous(), norm.bias.contiguous()
    y = torch.empty_like(x, memory_format=torch.channels_last)
    rows, channels, height, width = x.shape
    call = _Norm(
        rows=rows,
        pixels=height * width,
        channels=channels,
        groups=norm.num_groups,
        half=x.dtype is torch.bfloat16,
        threads=max(1, min(torch.get_num_threads(), rows, x.numel() // THREAD)),
        eps=norm.eps,
        x=x.data_ptr(),
        weight=weight.data_ptr(),
        bias=bias.data_ptr(),
        y=y.data_ptr(),
    )
    built.norm_silu(ctypes.byref(call))
    return y
