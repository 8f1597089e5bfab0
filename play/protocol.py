"""The messages between the page and the server.

The page sends text messages, JSON objects with a ``type``:

    reset    start an episode. task: a name, seed: from 0, start: index of a start state; each may be left out
    step     act once. action: of the action space; or driver: name of the policy that acts instead
    rewind   go back. steps: how many, at most to the start
    fork     continue as four futures. by: "luck" (equal actions, different samples) or "actions" (the reverse)
    choose   continue from one future. future: 0 to 3, or null to return to where they began
    record   on: true begins a recording, false saves it

and one binary message: the bytes of a PNG or JPEG picture, from which an episode starts. Every message has one answer;
but not this one, which may be sent before the answer to the message before it has come:

    take over  the driver of that step need not decide any more; the step's answer is then the view as it was

The server sends text messages:

    welcome  after connecting: what can be played (see :meth:`worldgym.play.session.PlaySession.describe`)
    saved    files: names of the files that a recording became; it precedes the answer
    error    name and message: what was wrong; it takes the place of the answer
    leave    message: why the server is about to close the connection, and another try would not help

and as an answer a view, a binary message: 4 bytes, big-endian, the length of a JSON object; the JSON object; the PNG
files of the pictures that its ``pictures`` lists with ``name`` and ``bytes``. Its other entries are those of
:meth:`worldgym.play.session.PlaySession.view`; after ``choose`` there is also ``history``, of all steps.
"""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from worldgym.config import from_dict
from worldgym.errors import ConfigError, InvalidOption, nearest
from worldgym.play.pictures import to_png
from worldgym.play.session import Forking, View
from worldgym.play.spaces import FUTURES
from worldgym.storage.files import parse_json, to_json

MAX_SEED, MAX_STEPS = 2**31 - 1, 10_000


@dataclass(frozen=True)
class Reset:
    """Start an episode."""

    task: str | None = None
    seed: int | None = None
    start: int | None = None


@dataclass(frozen=True)
class Step:
    """Act once."""

    action: Any = None
    driver: str | None = None


@dataclass(frozen=True)
class Rewind:
    """Go back."""

    steps: int = 1


@dataclass(frozen=True)
class Fork:
    """Continue as several futures."""

    by: Forking = "luck"


@dataclass(frozen=True)
class Choose:
    """Continue from one future, or from where they began."""

    future: int | None = None


@dataclass(frozen=True)
class Record:
    """Begin or end a recording."""

    on: bool


@dataclass(frozen=True)
class TakeOver:
    """Act in place of the driver that is deciding."""


Message: TypeAlias = Reset | Step | Rewind | Fork | Choose | Record | TakeOver
KINDS: Mapping[str, type[Message]] = {
    "reset": Reset,
    "step": Step,
    "rewind": Rewind,
    "fork": Fork,
    "choose": Choose,
    "record": Record,
    "take over": TakeOver,
}


def parse_message(text: str) -> Message:
    """A message of the page.

    Raises:
        InvalidOption: if the text is none; says what was expected.
    """
    try:
        return to_message(parse_json(text, "message"))
    except ConfigError as error:
        raise InvalidOption(f"{error}; expected a message as worldgym.play.protocol describes them") from error


def to_message(values: Mapping[str, Any]) -> Message:
    """A message from its JSON object. Raises InvalidOption if it is none."""
    kind = values.get("type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidOption(f"message: unknown type {kind!r}; {nearest(str(kind), KINDS)}")
    rest = {name: value for name, value in values.items() if name != "type"}
    if kind == "step":  # an action has no fixed type: the action space checks it
        return _step(rest)
    try:
        message = from_dict(KINDS[kind], rest, f"message {kind!r}")
    except ConfigError as error:
        raise InvalidOption(str(error)) from error
    for name, value, least, most in _ranges(message):
        if value is not None and not least <= value <= most:
            raise InvalidOption(f"message {kind!r}: expected {name} from {least} to {most}, got {value}")
    return message


def _step(values: Mapping[str, Any]) -> Step:
    driver = values.get("driver")
    if set(values) - {"action", "driver"} or not isinstance(driver, str | None):
        raise InvalidOption(f"message 'step': expected an action, or the name of a driver, got {dict(values)!r:.200}")
    return Step(values.get("action"), driver)


def _ranges(message: Message) -> list[tuple[str, int | None, int, int]]:
    if isinstance(message, Reset):
        return [("seed", message.seed, 0, MAX_SEED), ("start", message.start, 0, MAX_SEED)]
    if isinstance(message, Rewind):
        return [("steps", message.steps, 1, MAX_STEPS)]
    return [("future", message.future, 0, FUTURES - 1)] if isinstance(message, Choose) else []


def error_message(error: Exception) -> dict[str, Any]:
    """The message of an error."""
    return {"type": "error", "name": type(error).__name__, "message": str(error)}


def pack_view(view: View, encode: Callable[[Any], bytes] = to_png) -> bytes:
    """A view as a binary message."""
    files = {name: encode(picture) for name, picture in view.pictures.items()}
    listed = [{"name": name, "bytes": len(file)} for name, file in files.items()]
    header = to_json({**view.values, "pictures": listed}).encode()
    return b"".join([struct.pack(">I", len(header)), header, *files.values()])


def unpack_view(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Inverse of :func:`pack_view`: the entries of a view, and the PNG files of its pictures by their names."""
    (length,) = struct.unpack_from(">I", data)
    values: dict[str, Any] = json.loads(data[4 : 4 + length])
    files, place = {}, 4 + length
    for listed in values["pictures"]:
        files[listed["name"]] = data[place : place + listed["bytes"]]
        place += listed["bytes"]
    return values, files
