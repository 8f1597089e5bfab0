"""torch_defaults: PyTorch's defaults inside, the caller's settings afterwards."""

from collections.abc import Iterator

import pytest
import torch

from worldgym.isolation import torch_defaults


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device("cpu")


def settings() -> tuple[object, ...]:
    autocast = torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")
    grad = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    return torch.get_default_dtype(), torch.empty(0).device.type, autocast, grad


DEFAULTS = (torch.float32, "cpu", (False, False), (True, False))


def test_defaults_hold_inside_and_the_callers_settings_return() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    with torch.autocast("cpu"), torch.inference_mode():
        before = settings()
        assert before != DEFAULTS
        with torch_defaults():
            assert settings() == DEFAULTS
            weight = torch.ones(2, requires_grad=True)
            assert not weight.is_inference()
            (weight * 2).sum().backward()
            assert weight.grad is not None
        assert settings() == before


def test_the_callers_settings_return_after_an_exception() -> None:
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"), torch.no_grad(), torch.autocast("cpu"):
        before = settings()
        with pytest.raises(ZeroDivisionError), torch_defaults():
            raise ZeroDivisionError
        assert settings() == before


def test_grad_mode_and_device_can_be_chosen() -> None:
    with torch_defaults("meta", grad=False):
        assert torch.zeros(1).device.type == "meta"
        assert not torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    assert settings() == DEFAULTS


def test_works_as_a_decorator() -> None:
    @torch_defaults(grad=False)
    def inside() -> tuple[object, ...]:
        return settings()

    with torch.device("meta"):
        assert inside() == (torch.float32, "cpu", (False, False), (False, False))
        assert inside()[1] == "cpu"
