"""Random shifts of frames, DrQ-v2's augmentation."""

import torch
from torch import Tensor


def random_shift(frames: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Shift every row by up to ``pad`` pixels in each direction; edge pixels repeat, a stack is shifted as a whole.

    The paper interpolates at shifted positions, but these are whole pixels: selecting pixels gives the same.

    Args:
        frames: uint8 ``[B, S, H, W, 3]``.
        pad: the largest shift.
        generator: a CPU one, which samples the shifts.
    """
    shifts = torch.randint(2 * pad + 1, (len(frames), 2), generator=generator, device="cpu") - pad
    # One slice a row is faster than a gather on a CPU, and hundreds of small kernels on a GPU.
    return shift_by_slices(frames, pad, shifts) if frames.device.type == "cpu" else shift_by_gather(frames, shifts)


def shift_by_slices(frames: Tensor, pad: int, shifts: Tensor) -> Tensor:
    """Shift rows by ``shifts``, int64 ``[B, 2]`` (down, right), of at most ``pad`` pixels."""
    height, width = frames.shape[2:4]
    wide = torch.cat([frames[..., :1, :]] * pad + [frames] + [frames[..., -1:, :]] * pad, dim=3)
    padded = torch.cat([wide[:, :, :1]] * pad + [wide] + [wide[:, :, -1:]] * pad, dim=2)
    corners = zip(padded, (shifts + pad).tolist(), strict=True)
    return torch.stack([stack[:, y : y + height, x : x + width] for stack, (y, x) in corners])


def shift_by_gather(frames: Tensor, shifts: Tensor) -> Tensor:
    """The same without a loop over rows."""
    batch, stack, height, width, _ = frames.shape
    device, offsets = frames.device, shifts.to(frames.device)
    rows = (offsets[:, :1] + torch.arange(height, device=device)).clamp(0, height - 1)
    columns = (offsets[:, 1:] + torch.arange(width, device=device)).clamp(0, width - 1)
    first = torch.arange(batch * stack, device=device).view(batch, stack, 1, 1) * height
    index = (first + rows[:, None, :, None]) * width + columns[:, None, None, :]
    return frames.reshape(-1, 3)[index.flatten()].view(frames.shape)
