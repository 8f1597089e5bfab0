"""BAIR robot pushing (``softmotion30_44k``): TFRecord files of short clips, read without TensorFlow.

A record has ``N/image_main/encoded`` and ``N/image_aux1/encoded``, which are raw pixels despite their name, and
``N/action`` for every frame N. An action leads to the frame after it, so the last one is left out. Actions are taken as
they are.
"""

import re
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldgym.data.convert.source import Member, RawEpisode, Source, choose_key, find_files, relative_name
from worldgym.data.convert.tfrecord import list_records, parse_example, read_record, to_bytes, to_numbers
from worldgym.errors import DataError

SUFFIX = ".tfrecords"
TASK = "robot pushing"
PICTURE = re.compile(r"(\d+)/image_(\w+)/encoded")


@dataclass(frozen=True)
class BairSource:
    """A file, or a folder with files at any depth."""

    src: Path
    image_key: str | None

    def members(self) -> list[Member]:
        """The records of all files."""
        return [
            Member(f"{relative_name(path, self.src)}/{index:06d}", (path, offset))
            for path in find_files(self.src, (SUFFIX,))
            for index, offset in enumerate(list_records(path))
        ]

    def read(self, member: Member) -> RawEpisode:
        """Read a record."""
        path, offset = member.place
        example = parse_example(read_record(path, offset))
        found = [match.groups() for name in example if (match := PICTURE.fullmatch(name))]
        camera = choose_key({name for _, name in found}, self.image_key, str(path))
        numbers = sorted(int(number) for number, name in found if name == camera)
        if numbers != list(range(len(numbers))):
            missing = sorted(set(range(numbers[-1])) - set(numbers))
            raise DataError(f"expected frames 0 to {numbers[-1]}, got none with the numbers {missing}")
        frames = (_picture(to_bytes(example[f"{number}/image_{camera}/encoded"])) for number in numbers)
        return RawEpisode(frames, TASK, _actions(example, len(numbers) - 1))


def open_source(src: Path, image_key: str | None) -> Source:
    """Open a file or folder. The cameras are ``main`` and ``aux1``."""
    return BairSource(src, image_key)


def _actions(example: dict[str, memoryview], steps: int) -> NDArray[np.float32] | None:
    """``[steps, A]``; None if no frame has one."""
    rows = [to_numbers(example.get(f"{number}/action", memoryview(b""))) for number in range(steps)]
    lengths = {len(row) for row in rows}
    if lengths <= {0}:
        return None
    if len(lengths) > 1:
        raise DataError(f"expected an action of one length for each of {steps} steps, got lengths {sorted(lengths)}")
    return np.array(rows, np.float32)


def _picture(values: list[bytes]) -> NDArray[np.uint8]:
    """A square picture from its raw pixels."""
    size = sum(map(len, values))
    side = isqrt(size // 3)
    if len(values) != 1 or not side or size != side * side * 3:
        raise DataError(f"expected the raw pixels of a square picture, such as 64 x 64 x 3 bytes, got {size} bytes")
    return np.frombuffer(values[0], np.uint8).reshape(side, side, 3)
