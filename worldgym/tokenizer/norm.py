"""Normalisation layers of the compact tokenizer: GroupNorm with SiLU, and the scaling of latents."""

import ctypes
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldgym import native, parallel

NUMBERS_PER_THREAD = 2**16  # with fewer, starting a thread takes longer than it saves


class _NormSiluCall(ctypes.Structure):
    """The struct ``NormSiluCall`` of ``native.c``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "pixels", "channels", "groups", "half", "threads")),
        ("eps", ctypes.c_float),
        *((name, native.Pointer) for name in ("x", "weight", "bias", "y")),
    ]


def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """``silu(norm(x))``.

    On a CPU, channels-last maps in float32 or bfloat16 run in compiled code if no gradients are recorded. PyTorch's
    own norm is slow in bfloat16, and for such maps it loses precision in groups whose mean is far from zero.

    Args:
        norm: the normalisation.
        x: ``[N, c, h, w]``.

    Returns:
        A tensor of the shape, dtype and memory format of ``x``.
    """
    fits = x.device.type == "cpu" and x.dtype in native.DTYPES and norm.weight.dtype is x.dtype and x.ndim == 4
    fits = fits and not torch.is_grad_enabled() and x.is_contiguous(memory_format=torch.channels_last)
    library = native.library() if fits else None
    if library is None:
        return F.silu(norm(x))
    weight, bias = norm.weight.contiguous(), norm.bias.contiguous()
    y = torch.empty_like(x, memory_format=torch.channels_last)
    rows, channels, height, width = x.shape
    size, dtype = x.numel(), x.dtype
    call = _NormSiluCall(
        rows=rows,
        pixels=height * width,
        channels=channels,
        groups=norm.num_groups,
        half=dtype is torch.bfloat16,
        threads=max(1, min(torch.get_num_threads(), rows, size // NUMBERS_PER_THREAD)),
        eps=norm.eps,
        x=native.pointer("x", x, dtype, size, torch.channels_last),
        weight=native.pointer("weight", weight, dtype, channels),
        bias=native.pointer("bias", bias, dtype, channels),
        y=native.pointer("y", y, dtype, size, torch.channels_last),
    )
    library.norm_silu(ctypes.byref(call))
    return y


class LatentNorm(nn.Module):
    """Scale latents so that over the data they have mean zero and length about 1, before they are quantised.

    Without it all latents shrink towards one code while the decoder still copies the context, and stay there.

    In training mode the statistics are those of the batch, over all processes, and :meth:`update` adds them to the
    running ones.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, eps=1e-10, affine=False, momentum=0.02)
        self.scale: float = channels**-0.5
        self._pending: tuple[Tensor, Tensor] | None = None

    def forward(self, latents: Tensor) -> Tensor:
        """``[N, D, h, w]`` to vectors, float32 ``[N, h * w, D]``."""
        flat_NDP = latents.float().flatten(2)
        mean, variance = cast(Tensor, self.norm.running_mean), cast(Tensor, self.norm.running_var)
        if self.training:
            self._pending = mean.clone(), variance.clone()
            with torch.autocast(latents.device.type, enabled=False):
                scaled = self._scaled_by_batch(flat_NDP, *self._pending)
        else:  # not by batch_norm, because the statistics may have another dtype than the latents
            mean, variance = mean.float(), variance.float()
            scaled = (flat_NDP - mean[:, None]) * torch.rsqrt(variance[:, None] + self.norm.eps)
        return torch.mul(scaled.transpose(1, 2), self.scale)

    def _scaled_by_batch(self, flat_NDP: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Latents scaled by their statistics over all processes, which are added to the running ones in place."""
        if parallel.world_size() == 1:
            return F.batch_norm(flat_NDP, mean, variance, None, None, True, self._momentum, self.norm.eps)
        count = flat_NDP.shape[0] * flat_NDP.shape[2] * parallel.world_size()
        new_mean = parallel.summed(flat_NDP.sum((0, 2))) / count
        centred = flat_NDP - new_mean[:, None]
        new_variance = parallel.summed(centred.square().sum((0, 2))) / count
        mean.lerp_(new_mean.detach(), self._momentum)
        variance.lerp_(new_variance.detach() * count / (count - 1), self._momentum)
        return centred * torch.rsqrt(new_variance[:, None] + self.norm.eps)

    @torch.no_grad()
    def update(self) -> None:
        """Apply the last forward pass in training mode to the running statistics; without one, do nothing."""
        if self._pending is None:
            return
        mean, variance = self._pending
        self._pending = None
        cast(Tensor, self.norm.running_mean).copy_(mean)
        cast(Tensor, self.norm.running_var).copy_(variance)
        cast(Tensor, self.norm.num_batches_tracked).add_(1)

    @property
    def _momentum(self) -> float:
        return cast(float, self.norm.momentum)
