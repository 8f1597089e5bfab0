"""Folders of videos (MP4, WebM, GIF) without actions: one file an episode. The task is the name of a file's folder."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import ImageSequence
from PIL.Image import open as open_image

from worldgym.data.convert.source import Member, RawEpisode, Source, find_files, folder_name, relative_name
from worldgym.errors import ConfigError, DataError

GIF = ".gif"
SUFFIXES = (".mp4", ".webm", GIF)


@dataclass(frozen=True)
class VideoSource:
    """A file, or a folder with files at any depth."""

    src: Path

    def members(self) -> list[Member]:
        """The files, under their whole names: an MP4 and a GIF may differ in nothing else."""
        return [Member(relative_name(path, self.src), (path,)) for path in find_files(self.src, SUFFIXES)]

    def read(self, member: Member) -> RawEpisode:
        """Read a file: all frames, no actions."""
        (path,) = member.place
        frames = gif_frames(path) if path.suffix.lower() == GIF else video_frames(path)
        return RawEpisode(frames, folder_name(path))


def open_source(src: Path, image_key: str | None) -> Source:
    """Open a file or folder.

    Raises:
        ConfigError: for an image key: a video has one picture at a time.
    """
    if image_key is not None:
        raise ConfigError(f"image_key: videos have one camera, so leave it out; got {image_key!r}")
    return VideoSource(src)


def video_frames(path: Path, start: float = 0.0, count: int | None = None) -> Iterator[NDArray[np.uint8]]:
    """Decode frames of a video one by one: those that are stored, none of them repeated to fill a rate.

    Args:
        path: the file.
        start: seconds; frames before it are left out.
        count: the most frames; None decodes all.

    Yields:
        uint8 ``[h, w, 3]``.

    Raises:
        DataError: if the file cannot be decoded.
    """
    seek = ["-ss", f"{start:.6f}"] if start > 0 else []
    limit = [] if count is None else ["-frames:v", str(count)]
    # PPM pictures tell their own size, also where the video is stored turned.
    output = ["-map", "0:v:0", "-fps_mode", "passthrough", *limit, "-c:v", "ppm", "-f", "image2pipe", "-"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", *seek, "-i", str(path), *output]
    with TemporaryFile() as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
        try:
            assert process.stdout is not None
            while (frame := _next_frame(process.stdout)) is not None:
                yield frame
            if process.wait():
                log.seek(0)
                raise DataError(f"ffmpeg cannot decode it: {log.read().decode(errors='replace')}")
        finally:
            process.kill()  # where not all frames are wanted; else it has ended


def _next_frame(stream: IO[bytes]) -> NDArray[np.uint8] | None:
    """The next PPM picture of a stream; None at its end."""
    if stream.readline() != b"P6\n":
        return None
    width, height = map(int, stream.readline().split())
    stream.readline()  # the largest value, 255
    return np.frombuffer(stream.read(height * width * 3), np.uint8).reshape(height, width, 3).copy()


def gif_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    """The frames of a GIF one by one, uint8 ``[h, w, 3]``."""
    with open_image(path) as image:
        for frame in ImageSequence.Iterator(image):
            yield np.asarray(frame.convert("RGB"))
