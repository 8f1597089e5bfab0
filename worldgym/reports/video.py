"""Clips of frames: arranging them, and writing them as GIF, MP4 and PNG files."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldgym.storage.files import atomic_write

Frames = NDArray[np.uint8]
"""A clip: uint8 ``[T, H, W, 3]``."""


def beside(*clips: Frames, gap: int = 2) -> Frames:
    """Put clips of equal length and height side by side.

    Args:
        clips: uint8 ``[T, H, W, 3]``.
        gap: width in pixels of the white space between them.

    Returns:
        uint8 ``[T, H, total width, 3]``.
    """
    space = np.full((*clips[0].shape[:2], gap, 3), 255, np.uint8)
    parts = [part for clip in clips for part in (space, clip)]
    return np.concatenate(parts[1:], axis=2)


def below(*clips: Frames, gap: int = 2) -> Frames:
    """Put clips of equal length and width below each other.

    Args:
        clips: uint8 ``[T, H, W, 3]``, the top one first.
        gap: height in pixels of the white space between them.

    Returns:
        uint8 ``[T, total height, W, 3]``.
    """
    space = np.full((clips[0].shape[0], gap, *clips[0].shape[2:]), 255, np.uint8)
    parts = [part for clip in clips for part in (space, clip)]
    return np.concatenate(parts[1:], axis=1)


def difference(real: Frames, predicted: Frames) -> Frames:
    """Twice the absolute difference of two clips, so that small errors are visible; uint8 of the same shape."""
    doubled: Frames = np.minimum(2 * np.abs(real.astype(np.int16) - predicted), 255).astype(np.uint8)
    return doubled


def compared(real: Frames, predicted: Frames, gap: int = 2) -> Frames:
    """Put a real clip, a predicted one and their :func:`difference` side by side.

    Args:
        real: uint8 ``[T, H, W, 3]``.
        predicted: uint8 of the same shape.
        gap: width in pixels of the white space between them.

    Returns:
        uint8 ``[T, H, 3 W + 2 gap, 3]``.
    """
    return beside(real, predicted, difference(real, predicted), gap=gap)


def enlarge(clip: Frames, factor: int) -> Frames:
    """Repeat every pixel ``factor`` times in both directions: uint8 ``[..., H, W, 3]``."""
    return clip.repeat(factor, axis=-3).repeat(factor, axis=-2)


def write_gif(path: Path, clip: Frames, fps: int = 10) -> None:
    """Write a clip as a GIF that repeats, atomically.

    Args:
        path: the file.
        clip: uint8 ``[T, H, W, 3]``.
        fps: frames in a second.

    Raises:
        StorageError: if the file cannot be written.
    """
    with atomic_write(path) as temporary:
        iio.imwrite(temporary, clip, extension=".gif", duration=1000 / fps, loop=0)


def write_mp4(path: Path, clip: Frames, fps: int = 10) -> None:
    """Write a clip as an H.264 video, atomically. Height and width are padded to even numbers of pixels.

    Args:
        path: the file.
        clip: uint8 ``[T, H, W, 3]``.
        fps: frames in a second.

    Raises:
        StorageError: if the file cannot be written.
    """
    height, width = clip.shape[1:3]
    padded = np.pad(clip, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=255)
    with atomic_write(path) as temporary:
        iio.imwrite(temporary, padded, extension=".mp4", fps=fps, codec="libx264", macro_block_size=1)


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture as a PNG file, atomically.

    Args:
        path: the file.
        picture: uint8 ``[H, W, 3]``.

    Raises:
        StorageError: if the file cannot be written.
    """
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", optimize=True)
