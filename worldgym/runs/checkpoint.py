"""Checkpoints of a run: folders ``checkpoint-N``, of which the newest counts.

    state.safetensors   everything that a resumed run needs: tensors, and counters as JSON in the metadata
    run.json            the step, and how much of ``metrics.jsonl`` was written by then

A job may add files of its own, such as a replay. A checkpoint is written into a temporary folder and renamed, and only
then the one before it is removed, so all its files belong together whatever ends the process.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from worldgym.errors import CheckpointError, ConfigError
from worldgym.runs.log import logged_bytes, truncate_log
from worldgym.storage.files import atomic_folder, atomic_json, parse_json, read_json
from worldgym.storage.tensors import Tensors, read_tensors, write_tensors

PREFIX = "checkpoint-"
STATE = "state.safetensors"
FORMAT = "worldgym-run-1"
ABOUT = "run.json"


def write_checkpoint(folder: Path, step: int, save: Callable[[Path], None]) -> None:
    """Add a checkpoint to the run in ``folder`` and remove the earlier ones.

    Args:
        folder: of the run.
        step: steps done.
        save: writes the job's files into the folder it is given.

    Raises:
        StorageError: if the disk refuses; the earlier checkpoint is kept.
    """
    earlier = checkpoints(folder)
    number = _number(earlier[-1]) + 1 if earlier else 1
    with atomic_folder(folder / f"{PREFIX}{number:06d}") as temporary:
        save(temporary)
        atomic_json(temporary / ABOUT, {"step": step, "logged_bytes": logged_bytes(folder)})
    for path in earlier:
        shutil.rmtree(path, ignore_errors=True)


def restore_newest(folder: Path, load: Callable[[Path], None]) -> None:
    """Load the newest checkpoint, if there is one, and remove what was logged after it.

    Args:
        folder: of the run.
        load: reads the job's files from the folder it is given.

    Raises:
        CheckpointError: if the checkpoint is damaged.
    """
    for path in folder.glob(f".{PREFIX}*"):  # never finished
        shutil.rmtree(path, ignore_errors=True)
    found = checkpoints(folder)
    if found:
        load(found[-1])
    truncate_log(folder, _about(found[-1])["logged_bytes"] if found else 0)


def save_state(folder: Path, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
    """Write ``state.safetensors`` into a checkpoint: tensors, and counters of plain JSON types.

    Raises:
        StorageError: if the disk refuses.
    """
    write_tensors(folder / STATE, tensors, {"format": FORMAT, "counters": json.dumps(dict(counters))})


def load_state(folder: Path) -> tuple[Tensors, dict[str, Any]]:
    """Inverse of :func:`save_state`.

    Raises:
        CheckpointError: if the file is missing, damaged or of another format.
    """
    path = folder / STATE
    tensors, metadata = read_tensors(path, "the checkpoint of a run", file_format=FORMAT)
    try:
        return tensors, parse_json(metadata.get("counters", ""), f"{path}: counters")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def newest_checkpoint(folder: Path) -> Path:
    """The newest checkpoint of the run in ``folder``.

    Raises:
        CheckpointError: if there is none.
    """
    found = checkpoints(folder)
    if not found:
        raise CheckpointError(f"{folder} holds no checkpoint of a run ({PREFIX}*): train first, or give another folder")
    return found[-1]


def checkpoint_step(folder: Path) -> int:
    """The step of the newest checkpoint of the run in ``folder``; raises as :func:`newest_checkpoint`."""
    return int(_about(newest_checkpoint(folder))["step"])


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest last; more than one only if the process was killed while replacing one."""
    found = (path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal())
    return sorted(found, key=_number)


def _about(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / ABOUT
    try:
        about = read_json(path)
        return {name: int(about[name]) for name in ("step", "logged_bytes")}
    except (ConfigError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): restore the run from a copy") from error


def _number(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))
