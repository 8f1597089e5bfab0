"""Messages: what is understood, what is refused, and views as binary messages."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from worldgym.errors import InvalidOption
from worldgym.play.protocol import (
    Choose,
    Fork,
    Record,
    Reset,
    Rewind,
    Step,
    TakeOver,
    error_message,
    pack_view,
    parse_message,
    unpack_view,
)
from worldgym.play.session import View


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "reset"}', Reset()),
        ('{"type": "reset", "task": "toy", "seed": 3, "start": 1}', Reset("toy", 3, 1)),
        ('{"type": "step", "action": [0, 1.5]}', Step([0, 1.5])),
        ('{"type": "step", "driver": "expert"}', Step(None, "expert")),
        ('{"type": "rewind", "steps": 4}', Rewind(4)),
        ('{"type": "fork", "by": "actions"}', Fork("actions")),
        ('{"type": "choose", "future": null}', Choose()),
        ('{"type": "record", "on": true}', Record(True)),
        ('{"type": "take over"}', TakeOver()),
    ],
)
def test_messages_are_understood(text: str, message: Any) -> None:
    assert parse_message(text) == message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not JSON"),
        ("[1]", "JSON object"),
        ("[" * 100_000, "not JSON"),
        ("{}", "unknown type None"),
        ('{"type": ["step"]}', "unknown type"),
        ('{"type": "rest"}', "did you mean 'reset'"),
        ('{"type": "reset", "seed": "one"}', "seed"),
        ('{"type": "reset", "seed": -1}', "seed from 0"),
        ('{"type": "reset", "seed": 1e400}', "seed"),
        ('{"type": "reset", "folder": "/"}', "unknown entry 'folder'"),
        ('{"type": "step", "driver": 3}', "driver"),
        ('{"type": "step", "speed": 3}', "driver"),
        ('{"type": "rewind", "steps": 0}', "steps from 1"),
        ('{"type": "fork", "by": "magic"}', "by"),
        ('{"type": "choose", "future": 4}', "future from 0 to 3"),
        ('{"type": "record"}', "'on' is missing"),
    ],
    ids=lambda text: str(text)[:40],
)
def test_other_messages_are_refused(text: str, expected: str) -> None:
    with pytest.raises(InvalidOption, match=expected):
        parse_message(text)


def test_an_error_is_named() -> None:
    shown = {"type": "error", "name": "InvalidOption", "message": "expected more"}
    assert error_message(InvalidOption("expected more")) == shown


def test_a_view_comes_back_as_it_was() -> None:
    rng = np.random.default_rng(0)
    pictures = {name: rng.integers(256, size=(8, 8, 3), dtype=np.uint8) for name in ("simulator", "imagined")}
    values, files = unpack_view(pack_view(View(pictures, {"step": 3, "return": float("nan")})))
    assert (values["step"], values["return"]) == (3, None)
    assert list(files) == ["simulator", "imagined"]
    for name, file in files.items():
        np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(file))), pictures[name])
