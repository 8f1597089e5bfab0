import math
from typing import Any

import pytest

from worldgym.reports.cautions import cautions

FEW, MANY = 1.4, 60.0


def figures(perplexity: float, imagined: list[float | None], still: list[float | None]) -> dict[str, Any]:
    scores = {"sampled": {"psnr": imagined}, "last_frame": {"psnr": still}}
    return {"perplexity": {"dynamics": perplexity}, "by_task": {"all": scores}}


def test_a_model_that_beats_the_last_frame_at_one_horizon_is_not_warned_of() -> None:
    assert cautions(figures(MANY, [40.0, 31.0], [42.0, 30.0]), 512) == []


def test_one_code_for_everything_is_named() -> None:
    found = cautions(figures(FEW, [40.0, 31.0], [42.0, 30.0]), 512)
    assert "perplexity 1.4 of 512" in found[0]
    assert len(found) == 2


def test_frames_that_are_never_better_than_the_last_one_are_named() -> None:
    found = cautions(figures(MANY, [40.0, 30.0], [42.0, 30.0]), 512)
    assert "at no horizon" in found[0]
    assert "Train longer" in found[-1]


@pytest.mark.parametrize("infinite", [None, math.inf])
def test_horizons_at_which_nothing_moves_do_not_count(infinite: float | None) -> None:
    assert cautions(figures(MANY, [infinite, infinite], [infinite, infinite]), 512) == []
    assert cautions(figures(MANY, [30.0, 31.0], [infinite, 30.0]), 512) == []
    assert len(cautions(figures(MANY, [30.0, 29.0], [infinite, 30.0]), 512)) == 2
