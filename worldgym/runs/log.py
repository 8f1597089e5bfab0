"""What a run reports: a progress bar, ``metrics.jsonl`` and TensorBoard events."""

import json
import os
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from worldgym.errors import DependencyNotInstalled
from worldgym.runs.folder import CHECKPOINT_KEPT
from worldgym.storage.files import to_json, writing

Metrics = dict[str, float]
METRICS = "metrics.jsonl"


class Log:
    """The log of one run.

    Args:
        folder: of the run.
        steps: steps of the run in all, for the progress bar.
        step: steps done before; TensorBoard then ignores events of later steps.

    Raises:
        DependencyNotInstalled: without TensorBoard.
        StorageError: if a file cannot be written.
    """

    def __init__(self, folder: Path, steps: int, step: int = 0) -> None:
        writer = summary_writer_class()
        self._path = folder / METRICS
        with self._writing():
            self._file = self._path.open("a", encoding="utf-8")
            self._board = writer(str(folder), purge_step=step + 1)
        self._bar = tqdm(total=steps, initial=step, desc=folder.name, unit="step")
        self._start = time.monotonic()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
        with self._writing():
            self._file.close()
            self._board.close()

    def write(self, step: int, metrics: Metrics) -> None:
        """Add the metrics of a step.

        Args:
            step: the step.
            metrics: by name. Values that are not finite become null in ``metrics.jsonl``.

        Raises:
            StorageError: if a file cannot be written.
        """
        seconds = round(time.monotonic() - self._start, 1)
        with self._writing():
            self._file.write(to_json({"step": step, "seconds": seconds, **metrics}) + "\n")
            self._file.flush()
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)

    def advance(self, message: str, steps: int = 1) -> None:
        """Move the progress bar.

        Args:
            message: shown behind the bar.
            steps: steps done since the last call.
        """
        self._bar.set_postfix_str(message, refresh=False)
        self._bar.update(steps)

    def _writing(self) -> AbstractContextManager[None]:
        return writing(self._path, CHECKPOINT_KEPT)


class NoLog(Log):
    """The log of a process beside the first one: none."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        pass

    def write(self, step: int, metrics: Metrics) -> None:
        pass

    def advance(self, message: str, steps: int = 1) -> None:
        pass


def summary_writer_class() -> Any:
    """TensorBoard's ``SummaryWriter``.

    Raises:
        DependencyNotInstalled: without TensorBoard.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DependencyNotInstalled("training logs to TensorBoard; run `pip install worldgym[train]`") from error
    return SummaryWriter


def logged_bytes(folder: Path) -> int:
    """Size of a run's ``metrics.jsonl``; 0 where there is none."""
    path = folder / METRICS
    return path.stat().st_size if path.exists() else 0


def truncate_log(folder: Path, size: int) -> None:
    """Cut ``metrics.jsonl`` to ``size`` bytes, its size at the last checkpoint: a resumed run logs later steps again.

    Raises:
        StorageError: if the file cannot be written.
    """
    path = folder / METRICS
    if logged_bytes(folder) > size:
        with writing(path):
            os.truncate(path, size)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The complete lines of a run's ``metrics.jsonl``, each as a dictionary; an incomplete last line is ignored."""
    path = folder / METRICS
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
