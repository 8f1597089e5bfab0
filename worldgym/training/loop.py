"""The training loop of a tokenizer or a transformer on recordings.

Batches and dropout masks are functions of the seed and the step alone. So a checkpoint holds no random state, and a run
that was killed continues exactly.
"""

import math
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn

from worldgym.config import check_numbers
from worldgym.errors import CheckpointError, ConfigError
from worldgym.isolation import torch_defaults
from worldgym.parallel import Part, copy_from_main, is_main, mean_metrics, parts, rank
from worldgym.precision import Precision, autocast, check_precision
from worldgym.runs.checkpoint import load_state, save_state
from worldgym.runs.folder import CHECKPOINT_KEPT, VIDEOS
from worldgym.runs.log import Log, Metrics
from worldgym.runs.run import run
from worldgym.storage.files import writing
from worldgym.storage.tensors import add_prefix, select_prefix
from worldgym.training.seeding import seeded_rng
from worldgym.training.updater import Updater

Decay = Literal["cosine", "none"]


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the loop. The learning rate rises linearly, then follows ``decay``."""

    steps: int
    """Updates in all."""
    batch_size: int = 16
    """Segments in an update."""
    learning_rate: float = 1e-4
    """Of AdamW, at its highest."""
    warmup_steps: int = 500
    """Updates over which the learning rate rises."""
    decay: Decay = "cosine"
    """After that the learning rate falls to zero as a cosine (paper, for transformers), or stays (for tokenizers)."""
    weight_decay: float = 0.01
    """Of matrices; norms, biases and embeddings have none (paper, appendix A.2)."""
    clip_norm: float = 1.0
    """Gradients whose norm is larger are scaled down to it."""
    seed: int = 0
    """Of weights, batches and dropout."""
    log_every: int = 20
    """Updates between two lines of metrics."""
    validate_every: int = 500
    """Updates between two validations."""
    save_every: int = 250
    """Updates between two checkpoints."""
    precision: Precision = "auto"
    """float32, bfloat16, or auto: bfloat16 where the hardware multiplies it."""

    def __post_init__(self) -> None:
        above_zero = "steps", "batch_size", "learning_rate", "clip_norm", "log_every", "validate_every", "save_every"
        check_numbers(self, above_zero=above_zero, from_zero=("warmup_steps", "weight_decay", "seed"))
        check_precision(self.precision)
        if self.decay not in get_args(Decay):
            raise ConfigError(f"decay: expected one of {get_args(Decay)}, got {self.decay!r}")

    def schedule(self, step: int) -> float:
        """The learning rate of an update, as a share of ``learning_rate``."""
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.decay == "none":
            return warmup
        return warmup * 0.5 * (1 + math.cos(math.pi * step / self.steps))


class Trainable(Protocol):
    """What :func:`train` trains."""

    @property
    def model(self) -> nn.Module:
        """The module whose parameters are trained."""

    @property
    def slow(self) -> nn.Module | None:
        """A part of the model with a lower learning rate, if any; see :class:`worldgym.training.updater.Updater`."""

    def loss(self, rng: np.random.Generator, part: Part = ...) -> tuple[Tensor, Metrics]:
        """The loss of a part of a batch sampled with ``rng``, and metrics; the batch's are the means of all parts."""

    def after_update(self) -> None:
        """Called after each update of the weights."""

    def after_training(self) -> None:
        """Called once, after the last update and before its checkpoint."""

    def validate(self, video: Path) -> Metrics:
        """Metrics on held-out data; may write a video to ``video`` with the suffix ``.gif``."""

    def state_dict(self) -> dict[str, Tensor]:
        """State beside the weights."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of ``state_dict``."""


@torch_defaults()
def train(
    trainable: Trainable,
    config: TrainingConfig,
    folder: Path,
    description: Mapping[str, Any],
    resume: bool = False,
    accumulate: int = 1,
) -> int:
    """Train for ``config.steps`` updates, or resume; see :func:`worldgym.runs.run.run`.

    Args:
        trainable: a new one; the state of a resumed run is loaded into it.
        config: settings of the loop.
        folder: of the run.
        description: further entries for the run's ``config.json``.
        resume: continue the run in ``folder``.
        accumulate: parts of a batch that a process computes one after the other to save memory, with the same result.

    Returns:
        The number of updates done: fewer than ``config.steps`` if the run was stopped.

    Raises:
        ConfigError: if the batch cannot be divided among the processes and into parts.
        TrainingError: if the loss or its gradient is not finite; the last checkpoint is kept. Else as ``run``.
    """
    job = _TrainingJob(trainable, config, folder, accumulate)
    run(job, folder, {"training": vars(config), **description}, resume)
    return job.step


class _TrainingJob:
    """A :class:`worldgym.runs.run.Job`: one update at a time."""

    def __init__(self, trainable: Trainable, config: TrainingConfig, folder: Path, accumulate: int) -> None:
        self._trainable, self._config, self._folder = trainable, config, folder
        self._parts = parts(config.batch_size, accumulate)
        copy_from_main(trainable.model.state_dict().values())
        self._updater = Updater(
            trainable.model,
            config.learning_rate,
            config.schedule,
            config.clip_norm,
            config.weight_decay,
            trainable.slow,
        )
        self._device = next(trainable.model.parameters()).device
        self._precision = autocast(config.precision, self._device)

    @property
    def step(self) -> int:
        return self._updater.updates

    @property
    def steps(self) -> int:
        return self._config.steps

    @property
    def finished(self) -> bool:
        return self.step >= self.steps

    @property
    def save_due(self) -> bool:
        return self.step % self._config.save_every == 0

    def advance(self, log: Log, stop: Sized) -> None:
        metrics = self._update()
        if self.finished:
            if is_main():
                with self._precision:
                    self._trainable.after_training()
            copy_from_main(self._trainable.model.state_dict().values())
        if self.step % self._config.log_every == 0:
            log.write(self.step, metrics)
        if is_main() and (self.step % self._config.validate_every == 0 or self.finished):
            log.write(self.step, self._validate())
        log.advance(f"loss {metrics['loss']:.4f}")

    def save(self, folder: Path) -> None:
        tensors = add_prefix("model", self._trainable.model.state_dict())
        tensors |= add_prefix("trainable", self._trainable.state_dict())
        tensors |= add_prefix("optimizer", self._updater.state_dict())
        save_state(folder, tensors, {"step": self.step})

    def load(self, folder: Path) -> None:
        tensors, counters = load_state(folder)
        try:
            self._trainable.model.load_state_dict(select_prefix("model", tensors))
            self._trainable.load_state_dict(select_prefix("trainable", tensors))
            self._updater.load_state_dict(select_prefix("optimizer", tensors), int(counters["step"]))
        except (RuntimeError, LookupError) as error:
            raise CheckpointError(f"{folder} does not fit the run's config.json: {error}") from error

    def conclude(self, folder: Path) -> None:
        pass

    def _update(self) -> Metrics:
        config, model, step = self._config, self._trainable.model, self.step
        learning_rate = self._updater.learning_rate
        terms: list[Metrics] = []
        with seeded_rng(config.seed * 1_000_003 + step + (rank() << 40), self._device):  # other dropout in each process
            model.train()
            for part in self._parts:
                with self._precision:
                    loss, metrics = self._trainable.loss(np.random.default_rng([config.seed, step]), part)
                self._updater.add(loss / len(self._parts))
                terms.append({"loss": loss.item(), **metrics})
            norm = self._updater.update()
        self._trainable.after_update()
        means = {name: sum(term[name] for term in terms) / len(terms) for name in terms[0]}
        return {**mean_metrics(means), "gradient_norm": norm, "learning_rate": learning_rate}

    def _validate(self) -> Metrics:
        self._trainable.model.eval()
        videos = self._folder / VIDEOS
        with writing(videos, CHECKPOINT_KEPT):
            videos.mkdir(exist_ok=True)
        with torch.no_grad(), self._precision:
            metrics = self._trainable.validate(videos / f"{self.step:07d}")
        return {f"validation/{name}": value for name, value in metrics.items()}
