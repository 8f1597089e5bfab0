"""The training loop of a tokenizer or a transformer on recorded data.

Batches and dropout masks are functions of the seed and the step alone, so a checkpoint holds nothing of them, and a run
that was killed continues as if it had not been.
"""

import math
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from worldgym.errors import CheckpointError, ConfigError, TrainingError
from worldgym.precision import Precision, autocast, check_precision
from worldgym.runs.checkpoint import load_state, save_state
from worldgym.runs.folder import CHECKPOINT_KEPT, VIDEOS
from worldgym.runs.log import Log, Metrics
from worldgym.runs.run import run
from worldgym.storage.files import writing
from worldgym.storage.optimizer import load_optimizer_state_dict, optimizer_state_dict
from worldgym.storage.tensors import add_prefix, select_prefix

SLOW_FACTOR = 0.1


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the loop. The learning rate rises linearly, then falls to zero as a cosine.

    Attributes:
        steps: updates in all.
        batch_size: segments in an update.
        learning_rate: of AdamW, at its highest.
        warmup_steps: updates over which the learning rate rises.
        weight_decay: on matrices; none on norms, biases and embeddings (paper, appendix A.2).
        clip_norm: gradients whose norm is larger are scaled down to it.
        seed: of weights, batches and dropout.
        log_every: updates between two lines of metrics.
        validate_every: updates between two validations.
        save_every: updates between two checkpoints.
        precision: "float32", "bfloat16", or "auto": bfloat16 where the hardware multiplies it.
    """

    steps: int
    batch_size: int = 16
    learning_rate: float = 1e-4
    warmup_steps: int = 500
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    seed: int = 0
    log_every: int = 20
    validate_every: int = 500
    save_every: int = 250
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or not self.learning_rate > 0:
            raise ConfigError(f"steps, batch_size and learning_rate must be positive, got {self}")
        if min(self.log_every, self.validate_every, self.save_every) < 1:
            raise ConfigError(f"log_every, validate_every and save_every must be positive, got {self}")
        check_precision(self.precision)

    def rate(self, step: int) -> float:
        """The learning rate of an update."""
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * step / self.steps))


class Trainable(Protocol):
    """What the loop needs of the thing that is trained."""

    @property
    def model(self) -> nn.Module:
        """The module whose parameters are trained."""

    @property
    def slow(self) -> nn.Module | None:
        """A part of the model that learns at ``SLOW_FACTOR`` times the rate, if any."""

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, Metrics]:
        """The loss of a batch drawn with ``rng``, and metrics."""

    def after_update(self) -> None:
        """Called after each update of the weights."""

    def finish(self) -> None:
        """Called once, after the last update and before its checkpoint."""

    def validate(self, video: Path) -> Metrics:
        """Metrics on held-out data; may write a video at ``video`` with the suffix ``.gif``."""

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors to remember beside the weights."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of ``state_dict``."""


def train(
    trainable: Trainable, config: TrainingConfig, folder: Path, about: Mapping[str, Any], resume: bool = False
) -> int:
    """Train for ``config.steps`` updates, or resume; see :func:`worldgym.runs.run.run`.

    Args:
        trainable: what is trained; a resumed run's state is loaded into it.
        config: settings of the loop.
        folder: of the run.
        about: further entries for the run's ``config.json``.
        resume: continue the run in ``folder``.

    Returns:
        The number of updates done: fewer than ``config.steps`` if the run was stopped.

    Raises:
        TrainingError: if the loss is not finite; the last checkpoint is kept. Else as ``run``.
    """
    job = _TrainingJob(trainable, config, folder)
    run(job, folder, {"training": vars(config), **about}, resume)
    return job.step


class _TrainingJob:
    """A :class:`worldgym.runs.run.Job`: one update at a time."""

    def __init__(self, trainable: Trainable, config: TrainingConfig, folder: Path) -> None:
        self._trainable, self._config, self._folder = trainable, config, folder
        self.step, self.steps = 0, config.steps
        device = next(trainable.model.parameters()).device
        groups = _parameter_groups(trainable.model, config.weight_decay, trainable.slow)
        self._optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
        self._parameters = dict(trainable.model.named_parameters())
        self._precision = autocast(config.precision, device)

    @property
    def finished(self) -> bool:
        return self.step >= self.steps

    @property
    def save_due(self) -> bool:
        return self.step % self._config.save_every == 0

    def advance(self, log: Log, stop: Sized) -> None:
        metrics = self._update()
        self.step += 1
        if self.finished:
            with self._precision:
                self._trainable.finish()
        if self.step % self._config.log_every == 0:
            log.write(self.step, metrics)
        if self.step % self._config.validate_every == 0 or self.finished:
            log.write(self.step, self._validate())
        log.advance(f"loss {metrics['loss']:.4f}")

    def save(self, folder: Path) -> None:
        tensors = add_prefix("model", self._trainable.model.state_dict())
        tensors |= add_prefix("trainable", self._trainable.state_dict())
        tensors |= add_prefix("optimizer", optimizer_state_dict(self._optimizer, self._parameters))
        save_state(folder, tensors, {"step": self.step})

    def load(self, folder: Path) -> None:
        tensors, counters = load_state(folder)
        try:
            self._trainable.model.load_state_dict(select_prefix("model", tensors))
            self._trainable.load_state_dict(select_prefix("trainable", tensors))
            optimizer = select_prefix("optimizer", tensors)
            load_optimizer_state_dict(self._optimizer, self._parameters, optimizer)
            self.step = int(counters["step"])
        except (RuntimeError, LookupError) as error:
            raise CheckpointError(f"{folder} does not fit the run's config.json: {error}") from error

    def conclude(self, folder: Path) -> None:
        pass

    def _update(self) -> Metrics:
        config, model, step = self._config, self._trainable.model, self.step
        torch.manual_seed(config.seed * 1_000_003 + step)
        model.train()
        with self._precision:
            loss, metrics = self._trainable.loss(np.random.default_rng([config.seed, step]))
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at step {step}; the last checkpoint is kept. "
                f"Resume with a lower learning rate than {config.learning_rate}"
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = group["factor"] * config.rate(step)
        self._optimizer.step()
        self._trainable.after_update()
        return {"loss": loss.item(), **metrics, "gradient_norm": norm.item(), "learning_rate": config.rate(step)}

    def _validate(self) -> Metrics:
        self._trainable.model.eval()
        videos = self._folder / VIDEOS
        with writing(videos, CHECKPOINT_KEPT):
            videos.mkdir(exist_ok=True)
        with torch.no_grad(), self._precision:
            metrics = self._trainable.validate(videos / f"{self.step:07d}")
        return {f"validation/{name}": value for name, value in metrics.items()}


def _parameter_groups(model: nn.Module, weight_decay: float, slow: nn.Module | None) -> list[dict[str, Any]]:
    """Weight decay on matrices only: none on norms, biases and embeddings; ``slow`` is a group of its own."""
    apart = [] if slow is None else list(slow.parameters())
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    taken = {id(parameter) for parameter in apart}
    shared = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in taken]
    decayed = [parameter for parameter in shared if parameter.ndim > 1 and id(parameter) not in embeddings]
    rest = [parameter for parameter in shared if parameter.ndim < 2 or id(parameter) in embeddings]
    groups = [
        {"params": decayed, "weight_decay": weight_decay, "factor": 1.0},
        {"params": rest, "weight_decay": 0.0, "factor": 1.0},
        {"params": apart, "weight_decay": 0.0, "factor": SLOW_FACTOR},
    ]
    return [group for group in groups if group["params"]]
