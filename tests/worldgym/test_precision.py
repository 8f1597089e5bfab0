import pytest
import torch

from worldgym.errors import ConfigError
from worldgym.precision import autocast, check_precision, wants_bfloat16


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_autocast_to_the_requested_precision(precision: str, dtype: torch.dtype) -> None:
    with autocast(precision, torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_float32_disables_the_callers_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16), autocast("float32", torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_auto_asks_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported in (True, False):
        monkeypatch.setattr("worldgym.precision.cpu_has_bfloat16", lambda found=supported: found)
        assert wants_bfloat16("auto", torch.device("cpu")) is supported


def test_unknown_precision_raises() -> None:
    with pytest.raises(ConfigError, match="precision: expected one of 'auto', 'float32', 'bfloat16', got 'int8'"):
        check_precision("int8")
