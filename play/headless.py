"""Replaying inputs without a browser."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldgym.errors import InvalidOption, WorldGymError
from worldgym.play.answers import answer
from worldgym.play.protocol import to_message
from worldgym.play.recorder import FPS, PANE, grid
from worldgym.play.session import PlaySession, Settings
from worldgym.reports.video import enlarge, write_mp4

VIDEO = "session.mp4"
MAX_FRAMES = 5000
"""Of a session's video, which is made in memory."""


def read_script(path: Path) -> list[dict[str, Any]]:
    """The inputs of a script: a JSON list of messages as in :mod:`worldgym.play.protocol`.

    A message may also have ``repeat``, how often it is sent, or ``seconds``, for how long at 20 a second. A ``picture``
    message has the path of a PNG or JPEG file, relative to the script, as ``file``.

    Raises:
        InvalidOption: if the file is missing, or no such list; names the input.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidOption(f"{path}: expected a JSON list of inputs, got none ({error})") from error
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise InvalidOption(f"{path}: expected a JSON list of inputs, objects with a 'type'")
    for index, value in enumerate(values):
        _check_input(value, f"{path}: input {index}")
    if sum(map(_repeats, values)) > MAX_FRAMES:
        raise InvalidOption(f"{path}: expected at most {MAX_FRAMES} inputs, repeats included")
    return values


def replay(settings: Settings, script: Path) -> list[Path]:
    """Play a script's inputs, from a first episode with seed 0 on, and write the session's video.

    Args:
        settings: what to play.
        script: see :func:`read_script`.

    Returns:
        The files: recordings, and the video ``session.mp4``, which shows every answer.

    Raises:
        InvalidOption: for a script that cannot be played; names the input and its error.
        StorageError: if a file cannot be written.
    """
    inputs = read_script(script)
    session = PlaySession(settings)
    shown: list[list[NDArray[np.uint8]]] = []
    files: list[Path] = []
    try:
        for index, value in enumerate([{"type": "reset"}, *inputs]):
            for message in _messages(value, script.parent):
                messages, view = answer(session, message)
                if view is None:
                    error = messages[0]
                    raise InvalidOption(f"{script}: input {index - 1}: {error['name']}: {error['message']}")
                files += [settings.out / name for saved in messages for name in saved["files"]]
                shown.append(list(view.pictures.values()))
    finally:
        files += session.close()
    panes = max(map(len, shown))
    factor = max(1, PANE // shown[0][0].shape[0])
    clip = np.stack([grid(pictures, panes) for pictures in shown])
    path = settings.out / VIDEO
    write_mp4(path, enlarge(clip, factor if clip.nbytes * factor**2 < 2**29 else 1), FPS)
    return [*files, path]


def _check_input(value: Mapping[str, Any], where: str) -> None:
    for name, most in (("repeat", MAX_FRAMES), ("seconds", MAX_FRAMES / FPS)):
        number = value.get(name, 1)
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number <= most:
            raise InvalidOption(f"{where}: expected {name} above 0 and at most {most:g}, got {number!r}")
    if value.get("type") == "picture":
        if not isinstance(value.get("file"), str):
            raise InvalidOption(f"{where}: expected the file of a picture, got {value.get('file')!r}")
        return
    try:
        to_message(_plain(value))
    except WorldGymError as error:
        raise InvalidOption(f"{where}: {error}") from error


def _messages(value: Mapping[str, Any], folder: Path) -> Iterator[Any]:
    for _ in range(_repeats(value)):
        if value["type"] == "picture":
            try:
                yield (folder / value["file"]).read_bytes()
            except OSError as error:
                raise InvalidOption(f"picture {value['file']}: {error}") from error
        else:
            yield to_message(_plain(value))


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in value.items() if name not in ("repeat", "seconds")}


def _repeats(value: Mapping[str, Any]) -> int:
    return round(value["seconds"] * FPS) if "seconds" in value else int(value.get("repeat", 1))
