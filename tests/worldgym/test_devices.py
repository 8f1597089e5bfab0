from typing import Any

import pytest
import torch

from worldgym.devices import checked_device
from worldgym.errors import ConfigError


@pytest.mark.parametrize("name", ["cpu", torch.device("cpu")])
def test_devices_by_name(name: Any) -> None:
    assert checked_device(name) == torch.device("cpu")


def test_no_name_is_the_best_device() -> None:
    assert checked_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "tpu9", "", "cuda:99", "meta:-2", 3.5, ["cpu"]])
def test_devices_that_cannot_be_used(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"cannot be used here.*give 'cpu'") as caught:
        checked_device(name)
    assert len(str(caught.value).splitlines()) == 1
