"""Writing files so that nothing half-written is ever found: aside, flushed to disk, then renamed."""

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on any error it is removed."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        _settle(aside)
        aside.replace(target)
    except BaseException:
        with suppress(FileNotFoundError):
            aside.unlink()
        raise


def atomic_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(value, indent=2) + "\n")


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success its files are at ``path``, on any error it is removed.

    A new folder appears in one step. In a folder that exists each file replaces its namesake, after all of them have
    reached the disk; other files stay.
    """
    target = Path(path)
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
    there = next(folder for folder in (Path(path).absolute(), *Path(path).absolute().parents) if folder.exists())
    return f"{shutil.disk_usage(there).free / 1e9:.2f} GB are free on the disk of {there}"
