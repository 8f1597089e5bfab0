"""Writing videos that a person can look at."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from worldgym.storage.files import atomic_write

Frames = NDArray[np.uint8]


def beside(*clips: Frames, gap: int = 2) -> Frames:
    """Clips uint8 ``[T, H, W, 3]`` side by side, with a white gap."""
    bar = np.full((*clips[0].shape[:2], gap, 3), 255, np.uint8)
    parts = [part for clip in clips for part in (bar, clip)]
    return np.concatenate(parts[1:], axis=2)


def below(*clips: Frames, gap: int = 2) -> Frames:
    """Clips uint8 ``[T, H, W, 3]`` below each other, with a white gap."""
    bar = np.full((clips[0].shape[0], gap, *clips[0].shape[2:]), 255, np.uint8)
    parts = [part for clip in clips for part in (bar, clip)]
    return np.concatenate(parts[1:], axis=1)


def difference(real: Frames, made: Frames) -> Frames:
    """Twice the absolute difference, so that faint errors show."""
    doubled: Frames = np.minimum(2 * np.abs(real.astype(np.int16) - made), 255).astype(np.uint8)
    return doubled


def compared(real: Frames, made: Frames, gap: int = 2) -> Frames:
    """Real | made | :func:`difference`, side by side: clips uint8 ``[T, H, W, 3]`` to ``[T, H, 3 W + 2 gap, 3]``."""
    return beside(real, made, difference(real, made), gap=gap)


def enlarge(clip: Frames, factor: int) -> Frames:
    """Each pixel a square of ``factor`` pixels."""
    return clip.repeat(factor, axis=-3).repeat(factor, axis=-2)


def write_gif(path: Path, clip: Frames, fps: int = 10) -> None:
    """Write an endless GIF, atomically."""
    with atomic_write(path) as aside:
        iio.imwrite(aside, clip, extension=".gif", duration=1000 / fps, loop=0)


def write_mp4(path: Path, clip: Frames, fps: int = 10) -> None:
    """Write an H.264 video, atomically; height and width are padded to even numbers of pixels."""
    height, width = clip.shape[1:3]
    padded = np.pad(clip, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=255)
    with atomic_write(path) as aside:
        iio.imwrite(aside, padded, extension=".mp4", fps=fps, codec="libx264", macro_block_size=1)
