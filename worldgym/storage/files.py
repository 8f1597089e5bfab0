"""Files: written so that nothing half-written is ever found (aside, flushed to disk, then renamed); JSON read back.

All that writes raises StorageError where the disk refuses, all that reads JSON raises ConfigError where there is none.
"""

import json
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from worldgym.errors import ConfigError, StorageError

KEPT = "Nothing half-written is left, and what was there before is kept"


@contextmanager
def writing(path: str | os.PathLike[str], kept: str = KEPT) -> Iterator[None]:
    """Raise StorageError for whatever inside keeps ``path`` from being written; ``kept`` tells what is left behind."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        raise StorageError(
            f"could not write {path}: {error}. {kept}; {free_space(path)}: make room or choose another place"
        ) from error


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on any error it is removed.

    Raises StorageError where the disk refuses.
    """
    target = Path(path)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        aside = Path(name)
        try:
            yield aside
            _settle(aside)
            aside.replace(target)
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise


def atomic_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; see :func:`to_json`. Raises StorageError where the disk refuses."""
    with atomic_write(path) as aside:
        aside.write_text(to_json(value, indent=2) + "\n", encoding="utf-8")


def to_json(value: Any, indent: int | None = None) -> str:
    """``value`` as JSON text. JSON has no NaN and no infinities: they become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def read_json(path: str | os.PathLike[str], where: str | None = None) -> dict[str, Any]:
    """The JSON object in a file. Raises ConfigError, which calls the file ``where`` or by its path."""
    where = where or os.fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{where} is missing") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where} is not readable as text ({error})") from error
    return parse_json(text, where)


def parse_json(text: str, where: str) -> dict[str, Any]:
    """The JSON object in ``text``. Raises ConfigError, which calls it ``where``."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must hold a JSON object, got {type(values).__name__}")
    return values


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success its files are at ``path``, on any error it is removed.

    A new folder appears in one step. In a folder that exists each file replaces its namesake, after all of them have
    reached the disk; other files stay.

    Raises StorageError where the disk refuses.
    """
    target = Path(path)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.parent / f".{target.name}.{secrets.token_hex(4)}"
        aside.mkdir()
        try:
            yield aside
            for each in aside.iterdir():
                _settle(each)
            if not target.exists():
                aside.replace(target)
                return
            for each in sorted(aside.iterdir()):
                each.replace(target / each.name)
            aside.rmdir()
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise


def _settle(path: Path) -> None:
    """Flush a file to disk, with the permissions of any new file: temporary ones are their owner's alone."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def free_space(path: str | os.PathLike[str]) -> str:
    """How much room is left where ``path`` is or would be, for error messages."""
    there = next(folder for folder in (Path(path).absolute(), *Path(path).absolute().parents) if _exists(folder))
    return f"{shutil.disk_usage(there).free / 1e9:.2f} GB are free on the disk of {there}"


def _exists(path: Path) -> bool:
    """Whether a path is there for us; one that we may not look at is not."""
    with suppress(OSError):
        return path.exists()
    return False
