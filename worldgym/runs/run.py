"""The loop that every run shares, of world models and of agents.

config.json       all settings
checkpoint-N/     the newest checkpoint
metrics.jsonl     one JSON object a line
events.out.*      the same metrics for TensorBoard
videos/           videos of the job's progress
"""

from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any, Protocol

from worldgym import parallel
from worldgym.runs.checkpoint import restore_newest, write_checkpoint
from worldgym.runs.folder import open_run_folder
from worldgym.runs.log import Log, NoLog, summary_writer_class
from worldgym.runs.signals import stop_signals


class Job(Protocol):
    """Work that :func:`run` repeats, saves and resumes."""

    @property
    def step(self) -> int:
        """Steps done."""

    @property
    def steps(self) -> int:
        """Steps to do in all."""

    @property
    def finished(self) -> bool:
        """Whether all work is done."""

    @property
    def save_due(self) -> bool:
        """Whether a checkpoint is to be written now."""

    def advance(self, log: Log, stop: Sized) -> None:
        """Do one unit of work and log it.

        Args:
            log: of the run.
            stop: is no longer empty once the run should stop. Work that takes minutes should return then, without an
                effect.
        """

    def save(self, folder: Path) -> None:
        """Write everything that :meth:`load` needs into an empty folder."""

    def load(self, folder: Path) -> None:
        """Continue exactly where :meth:`save` was called."""

    def conclude(self, folder: Path) -> None:
        """Write the results into the folder of the run, once it is finished."""


def run(job: Job, folder: Path, config: Mapping[str, Any], resume: bool = False) -> bool:
    """Run a job until it is finished, or resume it.

    SIGINT and SIGTERM end the run after the current unit of work, with a checkpoint. A resumed run ends as an
    uninterrupted one does. Of several processes (:mod:`worldgym.parallel`) a signal to one ends all after the same
    unit, and the first one alone writes; all read the checkpoint, so the folder must be on a disk that they share.

    Args:
        job: a new one; the state of a resumed run is loaded into it.
        folder: of the run; see the docstring of this module.
        config: all settings, for ``config.json``.
        resume: continue the run in ``folder``.

    Returns:
        Whether the job is finished.

    Raises:
        DependencyNotInstalled: without TensorBoard; nothing is written then.
        TrainingError: if the folder holds another run, or none to resume.
        CheckpointError: if the checkpoint to resume from is damaged.
        StorageError: if a file cannot be written; the last checkpoint is kept.
    """
    summary_writer_class()
    open_run_folder(folder, config, resume)
    if resume:
        restore_newest(folder, job.load)
    main = parallel.is_main()
    with Log(folder, job.steps, job.step) if main else NoLog() as log, stop_signals() as stop:
        stopped = _stopped(stop)
        while not job.finished and not stopped:
            job.advance(log, stop)
            stopped = _stopped(stop)
            if (stopped or job.save_due or job.finished) and main:
                write_checkpoint(folder, job.step, job.save)
    if job.finished and main:
        job.conclude(folder)
    return job.finished


def _stopped(stop: Sized) -> bool:
    """Whether any process should stop."""
    return parallel.any_(bool(stop) or parallel.launcher_gone())
