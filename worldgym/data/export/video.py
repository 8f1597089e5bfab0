"""Writing a video block by block, so that it need not fit into memory."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from worldgym.errors import StorageError
from worldgym.storage.files import free_space

CODEC = "h264"
QUALITY = 18  # x264's constant rate factor: smaller is better
WriteFrames = Callable[[NDArray[np.uint8]], object]


def pixel_format(height: int, width: int) -> str:
    """How pixels are stored: with half the colours' resolution, where the sides are even numbers."""
    return "yuv420p" if height % 2 == width % 2 == 0 else "yuv444p"


@contextmanager
def open_video(path: Path, height: int, width: int, fps: int) -> Iterator[WriteFrames]:
    """Write an H.264 video in MP4.

    Every second frame is a key frame, so that any frame is found quickly, and no frame refers to a later one, so that
    frame t is shown at t / fps.

    Args:
        path: the file.
        height: of frames.
        width: of frames.
        fps: frames in a second.

    Yields:
        A function that appends frames, uint8 ``[N, H, W, 3]``.

    Raises:
        StorageError: if the video cannot be written.
    """
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-framerate", str(fps), "-i", "-"]
    codec = ["-c:v", "libx264", "-crf", str(QUALITY), "-g", "2", "-bf", "0"]
    output = [*codec, "-pix_fmt", pixel_format(height, width), "-movflags", "+faststart", "-f", "mp4", str(path)]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *source, *output]
    with TemporaryFile() as log, subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log) as process:
        assert process.stdin is not None
        stream = process.stdin
        try:
            yield lambda frames: stream.write(frames.tobytes())
            stream.close()
            failed = process.wait() != 0
        except BrokenPipeError:  # ffmpeg has ended before its time
            failed = True
        finally:
            process.kill()  # after another error; else it has ended
            with suppress(BrokenPipeError):
                stream.close()
        if failed:
            process.wait()
            log.seek(0)
            reason = " ".join(log.read().decode(errors="replace").split())
            raise StorageError(f"could not write {path}: ffmpeg says {reason!r}; {free_space(path)}")
