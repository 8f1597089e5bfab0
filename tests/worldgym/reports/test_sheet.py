import numpy as np

from worldgym.reports.sheet import GAP, LINE, MARGIN, Row, draw_sheet


def test_short_rows_end_at_the_right_and_captions_take_a_line() -> None:
    red, blue = (np.broadcast_to(np.array(colour, np.uint8), (2, 64, 64, 3)) for colour in ((255, 0, 0), (0, 0, 255)))
    sheet = draw_sheet(["a", "b"], [Row("red", red), Row("blue", blue[:1], ["PSNR 1.0"])])
    assert sheet.shape == (LINE + 128 + GAP + 128 + GAP + LINE, MARGIN + 2 * (128 + GAP), 3)
    centres = [
        (LINE + 64, MARGIN + 64),
        (LINE + 64, MARGIN + 196),
        (LINE + 196, MARGIN + 64),
        (LINE + 196, MARGIN + 196),
    ]
    assert [tuple(sheet[centre]) for centre in centres] == [(255, 0, 0), (255, 0, 0), (255, 255, 255), (0, 0, 255)]


def test_large_frames_are_not_enlarged() -> None:
    sheet = draw_sheet(["a"], [Row("", np.zeros((1, 256, 256, 3), np.uint8))])
    assert sheet.shape == (LINE + 256 + GAP, MARGIN + 256 + GAP, 3)
