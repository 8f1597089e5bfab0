"""The folder of a training run and its ``config.json``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldgym import parallel
from worldgym.errors import TrainingError
from worldgym.storage.files import atomic_json, read_json, to_json

CONFIG = "config.json"
VIDEOS = "videos"
OLD_CHECKPOINTS = ("last.safetensors", "checkpoint-*/learner.safetensors")
"""Checkpoints of earlier versions, which cannot be resumed."""
CHECKPOINT_KEPT = "The last checkpoint is kept: add --resume to continue from it"


def check_run_folder(folder: Path, resume: bool) -> None:
    """Check that ``folder`` holds a run if and only if one is to be resumed.

    Args:
        folder: of the run.
        resume: continue the run that the folder holds.

    Raises:
        TrainingError: otherwise, and if the run was written by an earlier version.
    """
    exists = (folder / CONFIG).exists()
    if exists and not resume:
        raise TrainingError(f"{folder} already holds a run: add --resume to continue it, or choose another folder")
    if resume and not exists:
        raise TrainingError(f"nothing to resume: {folder / CONFIG} does not exist")
    if resume and (problem := old_format(folder)):
        raise TrainingError(problem)


def old_format(folder: Path) -> str | None:
    """What is wrong if ``folder`` holds a run of an earlier version; None if it does not."""
    found = next((path for name in OLD_CHECKPOINTS for path in folder.glob(name)), None)
    if found is None:
        return None
    return (
        f"{found} is a checkpoint in the format of worldgym 0.1, which this version cannot read: continue the run with "
        "version 0.1, or start a new one in another folder"
    )


def open_run_folder(folder: Path, config: Mapping[str, Any], resume: bool) -> None:
    """Write ``config.json`` of a new run, or check that of the run to resume.

    Args:
        folder: of the run.
        config: all settings of the run, as JSON types.
        resume: continue the run that the folder holds.

    Raises:
        TrainingError: as :func:`check_run_folder`, and if the settings differ from those of the run to resume.
        StorageError: if the folder cannot be written.
    """
    check_run_folder(folder, resume)
    if not resume:
        parallel.barrier()  # all have seen that the folder holds no run
        if parallel.is_main():
            atomic_json(folder / CONFIG, config)
        return
    saved, requested = read_json(folder / CONFIG), json.loads(to_json(config))
    if differences := setting_differences(saved, requested):
        raise TrainingError(
            f"{folder / CONFIG} has other settings: {'; '.join(differences)}. Repeat the saved settings, or choose "
            "another folder"
        )


def setting_differences(saved: Mapping[str, Any], requested: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every setting that differs, as ``"name: saved X, requested Y"``; nested names are joined by dots."""
    differences: list[str] = []
    for name in sorted({*saved, *requested}):
        old, new = saved.get(name), requested.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            differences += setting_differences(old, new, f"{prefix}{name}.")
        elif old != new:
            differences.append(f"{prefix}{name}: saved {old!r}, requested {new!r}")
    return differences
