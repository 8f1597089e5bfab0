"""Pictures as frames."""

import numpy as np
import pytest

from worldgym.data.pictures import resized, to_picture
from worldgym.errors import DataError


def test_resizing_takes_the_mean_over_areas() -> None:
    image = to_picture(np.arange(16, dtype=np.uint8).reshape(4, 4) * 10)
    assert resized(image, 2)[..., 0].tolist() == [[25, 45], [105, 125]]
    assert resized(image, 4)[..., 2].tolist() == image[..., 2].tolist()


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_pictures_have_three_colours(shape: tuple[int, ...]) -> None:
    picture = to_picture(np.full(shape, 7, np.int64))
    assert picture.shape == (4, 5, 3)
    assert picture.dtype == np.uint8
    assert (picture == 7).all()


@pytest.mark.parametrize(
    "array", [np.zeros((4, 5, 2), np.uint8), np.full((4, 5), 300), np.zeros((4, 5)), np.zeros(4, np.uint8)]
)
def test_what_is_no_picture_is_refused(array: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(DataError, match="expected pictures"):
        to_picture(array)
