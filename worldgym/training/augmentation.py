"""Random crops and colours of clips (paper, appendix A.2). All frames of a clip get the same ones.

The ranges of the paper's models are those of crops 0.2 and colours 0.1. Recordings have the model's resolution already,
so crops are enlarged; the reference implementation takes them from the original pictures.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldgym.data.recordings import to_uint8, to_unit
from worldgym.errors import ConfigError
from worldgym.parallel import WHOLE, Part

ATTEMPTS = 10  # boxes drawn for a clip, of which the first that fits into the frame is taken
GREY = (0.299, 0.587, 0.114)  # of red, green and blue
SMALLEST = 1e-8  # divides where a pixel is grey, and has no hue


class Colours(NamedTuple):
    """How the colours of B clips change.

    Attributes:
        amounts: float64 ``[B, 4]``: factors of brightness, contrast and saturation, and the shift of the hue in turns.
        order: int64 ``[B, 4]``: the order in which these four changes are made.
    """

    amounts: NDArray[np.float64]
    order: NDArray[np.int64]


def check_augmentation(crops: float, colours: float) -> None:
    """Check the settings of :func:`augment`.

    Raises:
        ConfigError: if one is not in [0, 1).
    """
    for name, value in (("random_crops", crops), ("random_colours", colours)):
        if not 0 <= value < 1:
            raise ConfigError(f"{name}: expected a number in [0, 1), got {value}")


def augment(frames: Tensor, crops: float, colours: float, rng: np.random.Generator, part: Part = WHOLE) -> Tensor:
    """Crop every clip of a batch at random and change its colours.

    Args:
        frames: square ones of a part of a batch, uint8 ``[B, L, S, S, 3]``.
        crops: a crop has at least ``1 - crops`` of the area, and a ratio of its sides within ``crops / 2`` of 1. It is
            resized to the former size. 0 leaves crops out.
        colours: factors of brightness, contrast and saturation lie within ``colours`` of 1, and the hue is shifted by
            up to ``colours / 2`` of a turn. 0 leaves them out.
        rng: draws for the whole batch, whichever part is augmented; not used if both are 0.
        part: the part of the batch.

    Returns:
        As ``frames``, on the same device; ``frames`` itself if both are 0.
    """
    if not crops and not colours:
        return frames
    count = len(frames) * part.count
    rows, images = part.of(count), to_unit(frames)
    if crops:
        images = crop(images, draw_boxes(rng, count, frames.shape[2], crops)[rows])
    if colours:
        drawn = draw_colours(rng, count, colours)
        images = recolour(images, Colours(drawn.amounts[rows], drawn.order[rows]))
    return to_uint8(images)


def draw_boxes(rng: np.random.Generator, count: int, side: int, crops: float) -> NDArray[np.int64]:
    """Top, left, height and width of crops in pixels, ``[count, 4]``; the whole frame where no drawn box fits."""
    area = rng.uniform(1 - crops, 1, (count, ATTEMPTS))
    ratio = np.exp(rng.uniform(np.log(1 - crops / 2), np.log(1 + crops / 2), (count, ATTEMPTS)))
    sizes = np.rint(side * np.sqrt(np.stack([area / ratio, area * ratio], axis=2))).astype(np.int64).clip(1)
    fits = (sizes <= side).all(axis=2)
    chosen = np.where(fits.any(axis=1)[:, None], sizes[np.arange(count), fits.argmax(axis=1)], side)
    return np.concatenate([rng.integers(side - chosen + 1), chosen], axis=1)


def crop(images: Tensor, boxes: NDArray[np.int64]) -> Tensor:
    """Cut clips to boxes, and resize these to the former size by linear interpolation.

    Args:
        images: float32 ``[B, L, 3, S, S]``.
        boxes: top, left, height and width, ``[B, 4]``.

    Returns:
        As ``images``.
    """
    side = images.shape[-1]
    corners, sizes = torch.from_numpy(boxes).to(images)[..., None].split(2, dim=1)
    centres = (torch.arange(side, device=images.device) + 0.5) / side
    inside = (sizes * centres).clamp(min=0.5).minimum(sizes - 0.5)  # no pixel outside the box is mixed in
    rows, columns = ((corners + inside) * (2 / side) - 1).unbind(dim=1)
    grid = torch.stack(torch.broadcast_tensors(columns[:, None], rows[:, :, None]), dim=3)
    return F.grid_sample(images.flatten(1, 2), grid, padding_mode="border", align_corners=False).view_as(images)


def draw_colours(rng: np.random.Generator, count: int, colours: float) -> Colours:
    """Changes of the colours of ``count`` clips."""
    drawn = rng.uniform(-colours, colours, (count, 4))
    order = rng.permuted(np.tile(np.arange(4), (count, 1)), axis=1)
    return Colours(np.concatenate([1 + drawn[:, :3], drawn[:, 3:] / 2], axis=1), order)


def recolour(images: Tensor, colours: Colours) -> Tensor:
    """Change the colours of clips.

    Contrast is changed around the mean of the clip, not of each frame as in the reference implementation, so that what
    stands still in a clip keeps one colour.

    Args:
        images: float32 ``[B, L, 3, S, S]`` in [0, 1].
        colours: of each clip.

    Returns:
        As ``images``.
    """
    changed = images.clone()
    amounts = torch.from_numpy(colours.amounts).to(images)[..., None, None, None, None]
    for turn in colours.order.T:
        for kind, change in enumerate((_brighten, _contrast, _saturate, _shift_hue)):
            rows = torch.from_numpy((turn == kind).nonzero()[0]).to(images.device)
            if len(rows):
                changed[rows] = change(changed[rows], amounts[rows, kind])
    return changed


def _brighten(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp(0, 1)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_grey(images).mean(dim=(1, 2, 3, 4), keepdim=True), images, factor).clamp(0, 1)


def _saturate(images: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_grey(images), images, factor).clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    return sum(weight * channel for weight, channel in zip(GREY, images.split(1, dim=2), strict=True))  # type: ignore


def _shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue; the largest and the smallest channel keep their values, as in HSV."""
    red, green, blue = images.split(1, dim=2)
    highest, lowest = images.amax(dim=2, keepdim=True), images.amin(dim=2, keepdim=True)
    chroma = highest - lowest
    divisor = chroma.clamp(min=SMALLEST)
    sixths = torch.where(highest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sixths = torch.where(highest == red, (green - blue) / divisor, sixths) + 6 * turns
    distances = ((sixths + offset) % 6 for offset in (5, 3, 1))  # red, green and blue
    return torch.cat([highest - chroma * far.minimum(4 - far).clamp(0, 1) for far in distances], dim=2)
