"""Pictures on their way to and from the page."""

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.Image import open as open_image

from worldgym.data.pictures import resized
from worldgym.errors import InvalidFrames

FORMATS = ("PNG", "JPEG")
MAX_BYTES = 8 * 2**20
"""Of a picture's file."""
MAX_PIXELS = 40_000_000


def to_png(picture: NDArray[np.uint8]) -> bytes:
    """A picture, uint8 ``[H, W, 3]``, as a PNG file. It is compressed little: the page is on the same machine."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def read_picture(data: bytes, resolution: int) -> NDArray[np.uint8]:
    """A frame from a picture: its central square, resized by the mean over areas.

    Args:
        data: a PNG or JPEG file of any size.
        resolution: height and width of the frame.

    Returns:
        uint8 ``[resolution, resolution, 3]``.

    Raises:
        InvalidFrames: for a file of another type, a damaged one, or one that is too large.
    """
    if len(data) > MAX_BYTES:
        raise InvalidFrames(f"picture: expected at most {MAX_BYTES // 2**20} MiB, got {len(data) / 2**20:.1f} MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the next check is stricter
            image = open_image(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise InvalidFrames(
                f"picture: expected at most {MAX_PIXELS / 1e6:.0f} million pixels, got {image.width} x {image.height}; "
                "make it smaller"
            )
        upright = ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError as error:
        raise InvalidFrames("picture: expected a PNG or JPEG file, got another type") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's for damaged files
        raise InvalidFrames(f"picture: expected a PNG or JPEG file, got a damaged one ({error})") from error
    side = min(upright.size)
    left, top = (upright.width - side) // 2, (upright.height - side) // 2
    square = upright.crop((left, top, left + side, top + side))
    return resized(np.array(square, np.uint8), resolution)
