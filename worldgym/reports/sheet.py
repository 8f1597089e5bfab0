"""Contact sheets: rows of frames with names, headings and captions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from worldgym.reports.video import Frames, enlarge

SIDE = 128  # least height and width of a frame in pixels
MARGIN, GAP, LINE = 150, 4, 20
TEXT_COLOUR, BACKGROUND = (40, 40, 40), (255, 255, 255)


class Row(NamedTuple):
    """A row of a sheet.

    Attributes:
        name: what stands left of it.
        frames: uint8 ``[K, H, W, 3]``; fewer than the sheet's columns end at its right side.
        captions: text below each frame; empty for none.
    """

    name: str
    frames: Frames
    captions: Sequence[str] = ()


def draw_sheet(headings: Sequence[str], rows: Sequence[Row]) -> NDArray[np.uint8]:
    """Draw a sheet.

    Args:
        headings: text above each column.
        rows: frames of one size.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    factor = -(-SIDE // rows[0].frames.shape[1])
    height, width = (factor * size for size in rows[0].frames.shape[1:3])
    tops, total = [], LINE
    for row in rows:
        tops.append(total)
        total += height + GAP + (LINE if row.captions else 0)
    sheet = Image.new("RGB", (MARGIN + len(headings) * (width + GAP), total), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, heading in enumerate(headings):
        draw.text((MARGIN + column * (width + GAP), 2), heading, TEXT_COLOUR, font=font)
    for row, top in zip(rows, tops, strict=True):
        draw.multiline_text((4, top + 4), row.name, TEXT_COLOUR, font=font)
        skipped = len(headings) - len(row.frames)
        for index, frame in enumerate(enlarge(row.frames, factor)):
            left = MARGIN + (skipped + index) * (width + GAP)
            sheet.paste(Image.fromarray(frame), (left, top))
            if row.captions:
                draw.text((left, top + height + 2), row.captions[index], TEXT_COLOUR, font=font)
    return np.asarray(sheet).copy()
