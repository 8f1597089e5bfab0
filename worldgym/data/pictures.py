"""Pictures of other projects and environments as frames."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldgym.errors import DataError


def to_picture(array: NDArray[Any]) -> NDArray[np.uint8]:
    """A picture as uint8 ``[h, w, 3]``.

    Args:
        array: uint8, or other whole numbers from 0 to 255; ``[h, w]``, ``[h, w, 1]``, ``[h, w, 3]`` or ``[h, w, 4]``,
            whose transparency is left out.

    Raises:
        DataError: for any other array.
    """
    shaped = array[..., None] if array.ndim == 2 else array
    whole = array.dtype.kind in "ui" and array.size and array.min() >= 0 and array.max() <= 255
    if shaped.ndim != 3 or shaped.shape[2] not in (1, 3, 4) or not whole:
        raise DataError(
            f"expected pictures uint8 [h, w, 3] or [h, w], got {array.dtype} {list(array.shape)}; choose another camera"
        )
    colours: NDArray[np.uint8] = np.broadcast_to(shaped[..., :3], (*shaped.shape[:2], 3)).astype(np.uint8)
    return colours


def resized(picture: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """A picture, uint8 ``[h, w, 3]``, as uint8 ``[resolution, resolution, 3]``.

    Every pixel is the mean over the area that it covers; the sides may be scaled differently.
    """
    import torch  # not at the head: listing simulators must not import it
    import torch.nn.functional as F

    if picture.shape[:2] == (resolution, resolution):
        return picture
    planes = torch.from_numpy(picture).to(torch.float32).permute(2, 0, 1)
    means = F.adaptive_avg_pool2d(planes, resolution)
    frame: NDArray[np.uint8] = means.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return frame
