"""The loop that every run shares, of world models and of agents.

    config.json       all settings
    checkpoint-N/     the newest checkpoint
    metrics.jsonl     one JSON object a line
    events.out.*      the same metrics for TensorBoard
    videos/           what the job shows of its progress
"""

from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any, Protocol

from worldgym.runs.checkpoint import restore_newest, write_checkpoint
from worldgym.runs.folder import open_run_folder
from worldgym.runs.log import Log, summary_writer_class
from worldgym.runs.signals import stop_signals


class Job(Protocol):
    """What :func:`run` needs of the thing that is trained."""

    @property
    def step(self) -> int:
        """Steps done."""

    @property
    def steps(self) -> int:
        """Steps to do in all."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""

    @property
    def save_due(self) -> bool:
        """Whether a checkpoint is to be written now."""

    def advance(self, log: Log, stop: Sized) -> None:
        """Do one unit of work and log it.

        Work that takes minutes should give up, without an effect, when ``stop`` is no longer empty.
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
    uninterrupted one does.

    Args:
        job: newly made; a resumed run's state is loaded into it.
        folder: of the run; see the head of this module.
        config: all settings, for ``config.json``.
        resume: continue the run in ``folder``.

    Returns:
        Whether the job is finished.

    Raises:
        DependencyNotInstalled: without TensorBoard; nothing is written then.
        TrainingError: if the folder holds another run, or none to resume.
        CheckpointError: if the checkpoint to resume from is damaged.
        StorageError: if the disk refuses; the last checkpoint is kept.
    """
    summary_writer_class()
    open_run_folder(folder, config, resume)
    if resume:
        restore_newest(folder, job.load)
    with Log(folder, job.steps, job.step) as log, stop_signals() as stop:
        while not job.finished and not stop:
            job.advance(log, stop)
            if stop or job.save_due or job.finished:
                write_checkpoint(folder, job.step, job.save)
    if job.finished:
        job.conclude(folder)
    return job.finished
