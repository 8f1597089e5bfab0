"""Checkpoints of a run: folders ``checkpoint-N``, of which the one with the highest number is used.

    state.safetensors   everything that a resumed run needs: tensors, and counters as JSON in the metadata
    run.json            the step, and the size of ``metrics.jsonl`` at that step

A job may add files of its own, such as a replay. A checkpoint is written into a temporary folder and renamed, and only
then the earlier checkpoint is removed. So all files of a checkpoint belong together, whatever ends the process.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from worldgym import parallel
from worldgym.errors import CheckpointError, ConfigError
from worldgym.runs.folder import old_format
from worldgym.runs.log import logged_bytes, truncate_log
from worldgym.storage.files import atomic_folder, atomic_json, parse_json, read_json
from worldgym.storage.tensors import FORMAT, Tensors, read_tensors, write_tensors

PREFIX = "checkpoint-"
STATE = "state.safetensors"
RUN_FORMAT = "worldgym-run-1"
PROGRESS = "run.json"


def write_checkpoint(folder: Path, step: int, save: Callable[[Path], None]) -> None:
    """Add a checkpoint to the run in ``folder`` and remove the earlier ones.

    Args:
        folder: of the run.
        step: steps done.
        save: writes the job's files into the folder that it is called with.

    Raises:
        StorageError: if a file cannot be written; the earlier checkpoint is kept.
    """
    earlier = checkpoints(folder)
    number = _number(earlier[-1]) + 1 if earlier else 1
    with atomic_folder(folder / f"{PREFIX}{number:06d}") as temporary:
        save(temporary)
        atomic_json(temporary / PROGRESS, {"step": step, "logged_bytes": logged_bytes(folder)})
    for path in earlier:
        shutil.rmtree(path, ignore_errors=True)


def restore_newest(folder: Path, load: Callable[[Path], None]) -> None:
    """Load the newest checkpoint, if there is one, and remove what was logged after it.

    Args:
        folder: of the run.
        load: reads the job's files from the folder that it is called with.

    Raises:
        CheckpointError: if the checkpoint is damaged.
    """
    if parallel.is_main():
        for path in folder.glob(f".{PREFIX}*"):  # incomplete
            shutil.rmtree(path, ignore_errors=True)
    found = checkpoints(folder)
    if found:
        load(found[-1])
    if parallel.is_main():
        truncate_log(folder, _progress(found[-1])["logged_bytes"] if found else 0)


def save_state(folder: Path, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
    """Write ``state.safetensors`` into a checkpoint.

    Args:
        folder: of the checkpoint.
        tensors: by name.
        counters: plain JSON types. Floats may be NaN or infinite: they are restored as they are.

    Raises:
        StorageError: if the file cannot be written.
    """
    # Python's own JSON, which has NaN: this is text in a file's metadata and no JSON file.
    write_tensors(folder / STATE, tensors, {FORMAT: RUN_FORMAT, "counters": json.dumps(dict(counters))})


def load_state(folder: Path) -> tuple[Tensors, dict[str, Any]]:
    """Inverse of :func:`save_state`.

    Args:
        folder: of the checkpoint.

    Returns:
        The tensors and the counters.

    Raises:
        CheckpointError: if the file is missing, damaged or of another format.
    """
    path = folder / STATE
    tensors, metadata = read_tensors(path, "the checkpoint of a run", file_format=RUN_FORMAT)
    try:
        return tensors, parse_json(metadata.get("counters", ""), f"{path}: counters")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def newest_checkpoint(folder: Path) -> Path:
    """The newest checkpoint of the run in ``folder``.

    Raises:
        CheckpointError: if there is none, or only one of an earlier version.
    """
    if problem := old_format(folder):
        raise CheckpointError(problem)
    found = checkpoints(folder)
    if not found:
        raise CheckpointError(f"{folder} holds no checkpoint of a run ({PREFIX}*): train first, or give another folder")
    return found[-1]


def checkpoint_step(folder: Path) -> int:
    """The step of the newest checkpoint of the run in ``folder``; raises as :func:`newest_checkpoint`."""
    return _progress(newest_checkpoint(folder))["step"]


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest last; more than one only if the process was killed while replacing one."""
    found = (path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal())
    return sorted(found, key=_number)


def _progress(checkpoint: Path) -> dict[str, int]:
    path = checkpoint / PROGRESS
    try:
        progress = read_json(path)
        return {name: int(progress[name]) for name in ("step", "logged_bytes")}
    except (ConfigError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): restore the run from a copy") from error


def _number(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))
