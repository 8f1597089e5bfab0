"""Atomic writing of files and folders, and JSON.

Files are written under a temporary name, flushed to disk and renamed, so that an incomplete file is never found. All
functions that write raise StorageError where the operating system refuses; all that read JSON raise ConfigError.
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

KEPT = "No incomplete file is left, and earlier files are kept"


@contextmanager
def writing(path: str | os.PathLike[str], kept: str = KEPT) -> Iterator[None]:
    """Raise StorageError for every error inside that keeps ``path`` from being written.

    Args:
        path: the file or folder that is written.
        kept: what is left on disk after an error; part of the message.
    """
    try:
        yield
    except StorageError:
        raise
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        raise StorageError(
            f"could not write {path}: {error}. {kept}; {free_space(path)}: free some space or choose another place"
        ) from error


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file atomically; its folder is made if it is missing.

    Args:
        path: the file.

    Yields:
        A temporary path beside it, to write to. After the block it replaces ``path``; after an error it is removed.

    Raises:
        StorageError: if the file cannot be written.
    """
    target = Path(path)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write the files of a folder, all or none.

    A new folder appears in one step. In an existing folder each file replaces the file of the same name, and other
    files stay; if one of them cannot be replaced, the earlier files are put back.

    Args:
        path: the folder.

    Yields:
        A temporary folder beside it, to write files to. Subfolders are not supported.

    Raises:
        StorageError: if the folder cannot be written.
    """
    target = Path(path)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{target.name}.{secrets.token_hex(4)}"
        temporary.mkdir()
        try:
            yield temporary
            for file in temporary.iterdir():
                _flush(file)
            if target.exists():
                _replace_files(temporary, target)
            else:
                temporary.replace(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _replace_files(source: Path, target: Path) -> None:
    """Move all files of ``source`` into ``target``; after an error ``target`` is as it was."""
    names = sorted(path.name for path in source.iterdir())
    earlier = source / ".earlier"
    earlier.mkdir()
    try:
        for name in names:
            if (target / name).exists():
                (target / name).replace(earlier / name)
            (source / name).replace(target / name)
    except BaseException:
        for name in names:
            if (earlier / name).exists():
                (earlier / name).replace(target / name)
            elif not (source / name).exists():  # a new file, without an earlier one
                (target / name).unlink()
        raise


def _flush(path: Path) -> None:
    """Flush a file to disk, and give it the permissions of any new file: those of temporary files are stricter."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def atomic_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; see :func:`to_json`.

    Raises:
        StorageError: if the file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(to_json(value, indent=2) + "\n", encoding="utf-8")


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
    """Read the JSON object in a file.

    Args:
        path: the file.
        where: name of the file in error messages; its path unless given.

    Raises:
        ConfigError: if the file is missing or holds no JSON object.
    """
    where = where or os.fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{where} is missing") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where} is not readable as text ({error})") from error
    return parse_json(text, where)


def parse_json(text: str, where: str) -> dict[str, Any]:
    """The JSON object in ``text``.

    Args:
        text: JSON.
        where: name of the text in error messages.

    Raises:
        ConfigError: if it is not a JSON object.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must hold a JSON object, got {type(values).__name__}")
    return values


def check_space(path: str | os.PathLike[str], needed: int, what: str) -> None:
    """Check that a disk has room for what will be written, before work begins whose results would be lost.

    Args:
        path: a file or folder that is or will be on the disk.
        needed: bytes.
        what: will be written, for the error message.

    Raises:
        StorageError: if fewer bytes are free.
    """
    if shutil.disk_usage(_existing(path)).free < needed:
        raise StorageError(
            f"expected {_size(needed)} of free space for {what}, but {free_space(path)}: free some space or "
            "choose another place"
        )


def free_space(path: str | os.PathLike[str]) -> str:
    """The free space where ``path`` is or would be, as text for error messages."""
    existing = _existing(path)
    return f"{_size(shutil.disk_usage(existing).free)} are free on the disk of {existing}"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"


def _existing(path: str | os.PathLike[str]) -> Path:
    """A path, or the nearest folder around it that exists."""
    return next(folder for folder in (Path(path).absolute(), *Path(path).absolute().parents) if _exists(folder))


def _exists(path: Path) -> bool:
    """Whether a path exists; False where permissions do not let us look."""
    with suppress(OSError):
        return path.exists()
    return False
