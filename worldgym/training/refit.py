"""A run that fits the heads of a transformer and leaves everything else as it is.

It counts as finished after all steps of its recipe, which stays that of the transformer.
"""

from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

import torch

from worldgym.errors import CheckpointError, ConfigError
from worldgym.parallel import world_size
from worldgym.precision import autocast
from worldgym.runs.checkpoint import load_state, save_state
from worldgym.runs.folder import VIDEOS
from worldgym.runs.log import Log
from worldgym.runs.run import run
from worldgym.storage.files import writing
from worldgym.storage.tensors import add_prefix, select_prefix
from worldgym.training.loop import TrainingConfig
from worldgym.training.transformer import TransformerTrainer


def refit_heads(
    trainer: TransformerTrainer,
    config: TrainingConfig,
    folder: Path,
    description: Mapping[str, Any],
    resume: bool = False,
) -> int:
    """Fit the heads to what the transformer imagines; see :meth:`TransformerTrainer.after_training`.

    Args:
        trainer: holds the transformer.
        config: settings with which the transformer was trained; their precision is used.
        folder: of the run.
        description: further entries for the run's ``config.json``.
        resume: continue the run in ``folder``.

    Returns:
        ``config.steps`` when it is done.

    Raises:
        ConfigError: for several processes.
    """
    if world_size() > 1:
        raise ConfigError(f"heads_only: expected one process, got {world_size()}: start it without a launcher")
    job = _RefitJob(trainer, config, folder)
    run(job, folder, {"training": vars(config), "heads_only": True, **description}, resume)
    return job.step


class _RefitJob:
    """A :class:`worldgym.runs.run.Job` of one unit of work."""

    def __init__(self, trainer: TransformerTrainer, config: TrainingConfig, folder: Path) -> None:
        self.step, self.steps, self.save_due = 0, config.steps, True
        self._trainer, self._folder = trainer, folder
        self._precision = autocast(config.precision, next(trainer.model.parameters()).device)

    @property
    def finished(self) -> bool:
        return self.step >= self.steps

    def advance(self, log: Log, stop: Sized) -> None:
        videos = self._folder / VIDEOS
        with writing(videos):
            videos.mkdir(exist_ok=True)
        with torch.no_grad(), self._precision:
            if not self._trainer.after_training(stop):
                return
            metrics = self._trainer.validate(videos / "heads")
        self.step = self.steps
        log.write(self.step, {f"validation/{name}": value for name, value in metrics.items()})
        log.advance("heads fitted", self.steps)

    def save(self, folder: Path) -> None:
        save_state(folder, add_prefix("model", self._trainer.model.state_dict()), {"step": self.step})

    def load(self, folder: Path) -> None:
        tensors, counters = load_state(folder)
        try:
            self._trainer.model.load_state_dict(select_prefix("model", tensors))
        except RuntimeError as error:
            raise CheckpointError(f"{folder} does not fit the run's config.json: {error}") from error
        self.step = int(counters["step"])

    def conclude(self, folder: Path) -> None:
        pass
