import pytest

from worldgym.data.convert.open_x_embodiment import OTHERS, SETS, find_set
from worldgym.errors import ConfigError


def test_the_mixture_is_that_of_the_paper() -> None:
    assert len(SETS) == 35
    mixture = [*SETS.values(), OTHERS["something_something_v2"]]
    # The paper rounds the shares to a tenth of a percent, most of them upwards.
    assert sum(each.weight for each in mixture) == pytest.approx(100, abs=2)
    assert {each.step_size for each in mixture} == {1, 2, 3, 4, 5, 7, 10}


def test_a_data_set_says_where_its_pictures_are() -> None:
    assert find_set("toto") == (10, 0.5, "image", "action")
    assert find_set("language_table")[:3] == (3, 4.2, "rgb")
    assert find_set("bair_robot_pushing").image_key == "aux1_image"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown data set 'fractal' .*did you mean 'fractal20220817_data'"):
        find_set("fractal")
