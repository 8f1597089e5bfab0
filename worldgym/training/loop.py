"""The training loop of a tokenizer or a transformer on recordings.

Batches and dropout masks are functions of the seed and the step alone. So a checkpoint holds no random state, and a run
that was killed continues exactly.
"""

import math
import time
from collections.abc import Mapping, Sized
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from worldgym.config import check_numbers
from worldgym.errors import CheckpointError, ConfigError
from worldgym.isolation import torch_defaults
from worldgym.parallel import Part, any_, copy_from_main, is_main, mean_metrics, parts, rank
from worldgym.precision import Precision, autocast, check_precision
from worldgym.runs.checkpoint import checkpoints, load_state, save_state
from worldgym.runs.folder import CHECKPOINT_KEPT, VIDEOS
from worldgym.runs.log import Log, Metrics
from worldgym.runs.run import run
from worldgym.storage.files import check_space, writing
from worldgym.storage.tensors import add_prefix, select_prefix
from worldgym.training.average import Average
from worldgym.training.lora import merged
from worldgym.training.prefetch import Prefetcher
from worldgym.training.seeding import seeded_rng
from worldgym.training.speed import Speed, peak_flops
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
    ema_decay: float = 0.0
    """Decay of a moving average of the weights, such as 0.999, which is then validated and exported in their place; 0
    keeps none."""

    def __post_init__(self) -> None:
        above_zero = "steps", "batch_size", "learning_rate", "clip_norm", "log_every", "validate_every", "save_every"
        check_numbers(self, above_zero=above_zero, from_zero=("warmup_steps", "weight_decay", "seed"))
        check_precision(self.precision)
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay: expected a number in [0, 1), got {self.ema_decay}")
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

    def read(self, rng: np.random.Generator, part: Part = ...) -> Any:
        """Read a part of a batch sampled with ``rng``. Threads call it ahead of time, for several batches at once."""

    def loss(self, rng: np.random.Generator, part: Part = ..., data: Any = None) -> tuple[Tensor, Metrics]:
        """The loss of a part of a batch, and metrics; the batch's are the means of all parts.

        Args:
            rng: with which the batch was sampled; it is sampled now if ``data`` is None.
            part: of the batch.
            data: what :meth:`read` returned.
        """

    def after_update(self) -> Metrics:
        """Called after each update of the weights; returns further metrics of the batch."""

    def after_training(self, stop: Sized = ()) -> bool:
        """Called after the last update, until it returns True.

        Args:
            stop: as for :meth:`worldgym.runs.run.Job.advance`.

        Returns:
            Whether it is done; if not, it changed nothing.
        """

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
        StorageError: also if the disk has no room for the checkpoints, before the first update.
    """
    job = _TrainingJob(trainable, config, folder, accumulate)
    with closing(job):
        job.check_space()
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
        self._average = Average(trainable.model, config.ema_decay) if config.ema_decay else None
        self._device = next(trainable.model.parameters()).device
        self._precision = autocast(config.precision, self._device)
        self._batches = Prefetcher(self._read, config.steps)
        self._speed: Speed | None = None  # made at the first update
        self._concluded = False  # whether what follows the last update is done

    def close(self) -> None:
        """End reading ahead."""
        self._batches.close()

    def check_space(self) -> None:
        """Raise StorageError if the disk cannot hold the checkpoints: two, while one replaces another."""
        model = self._trainable.model
        held = [model.state_dict(), self._trainable.state_dict()]
        held += [] if self._average is None else [self._average.state_dict()]
        moments = [weight for weight in model.parameters() if weight.requires_grad] * 2
        tensors = [tensor for state in held for tensor in state.values()] + moments
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        count = 1 if checkpoints(self._folder) else 2
        check_space(self._folder, count * size, f"{count} checkpoint{'s' * (count - 1)} of this run")

    @property
    def step(self) -> int:
        """Updates done. The last one does not count before what follows it is done."""
        return self._updates - (self._updates >= self.steps and not self._concluded)

    @property
    def _updates(self) -> int:
        return self._updater.updates

    @property
    def steps(self) -> int:
        return self._config.steps

    @property
    def finished(self) -> bool:
        return self.step >= self.steps

    @property
    def save_due(self) -> bool:
        return self._updates % self._config.save_every == 0 or self._updates >= self.steps

    def advance(self, log: Log, stop: Sized) -> None:
        if self._updates < self.steps:
            self._train(log)
        else:
            self._finish(log, stop)

    def _train(self, log: Log) -> None:
        if self._speed is None:
            self._speed = self._make_speed()
        begin, waited = time.perf_counter(), self._batches.waited
        metrics = self._update()
        self._speed.add(time.perf_counter() - begin, self._batches.waited - waited)
        rate = self._speed.samples_per_second
        if self._updates % self._config.log_every == 0:
            log.write(self._updates, metrics | self._speed.metrics())
        if is_main() and self._updates % self._config.validate_every == 0 and self._updates < self.steps:
            log.write(self._updates, self._validate())
        log.advance(f"loss {metrics['loss']:.4f}, {rate:.3g} samples/s")

    def _finish(self, log: Log, stop: Sized) -> None:
        """The trained model is the averaged one, and its heads are fitted to it."""
        if self._average is not None:
            self._average.copy_to_model()
        stopped = False
        if is_main():
            with self._precision:
                stopped = not self._trainable.after_training(stop)
        if any_(stopped):
            return
        copy_from_main(self._trainable.model.state_dict().values())
        if self._average is not None:
            self._average.copy_from_model()
        self._concluded = True
        if is_main():
            log.write(self.step, self._validate())

    def save(self, folder: Path) -> None:
        raw = self._trainable.model.state_dict()
        plain = merged(raw)
        average = {} if self._average is None else self._average.state_dict()
        if self._average is not None:
            with self._average.applied():
                plain = {name: value.clone() for name, value in merged(raw).items()}
        tensors = add_prefix("model", plain)  # as it is exported; what training needs beside it follows
        tensors |= add_prefix("raw", {name: value for name, value in raw.items() if value is not plain.get(name)})
        tensors |= add_prefix("average", {name: value for name, value in average.items() if name not in plain})
        tensors |= add_prefix("trainable", self._trainable.state_dict())
        tensors |= add_prefix("optimizer", self._updater.state_dict())
        save_state(folder, tensors, {"step": self._updates, "concluded": self._concluded})

    def load(self, folder: Path) -> None:
        tensors, counters = load_state(folder)
        try:
            plain, raw = select_prefix("model", tensors), select_prefix("raw", tensors)
            if raw:
                own = self._trainable.model.state_dict().keys()
                raw = {name: value for name, value in (plain | raw).items() if name in own}
            self._trainable.model.load_state_dict(raw or plain)
            if self._average is not None:
                self._average.load_state_dict(plain | select_prefix("average", tensors))
            self._trainable.load_state_dict(select_prefix("trainable", tensors))
            self._updater.load_state_dict(select_prefix("optimizer", tensors), int(counters["step"]))
            # Earlier versions saved after the last update only when all was done.
            self._concluded = bool(counters.get("concluded", self._updates >= self.steps))
        except (RuntimeError, LookupError) as error:
            raise CheckpointError(f"{folder} does not fit the run's config.json: {error}") from error

    def conclude(self, folder: Path) -> None:
        pass

    def _update(self) -> Metrics:
        config, model, step = self._config, self._trainable.model, self._updates
        learning_rate = self._updater.learning_rate
        terms: list[Metrics] = []
        with seeded_rng(config.seed * 1_000_003 + step + (rank() << 40), self._device):  # other dropout in each process
            model.train()
            for part, (rng, data) in zip(self._parts, self._batches.get(step), strict=True):
                with self._precision:
                    loss, metrics = self._trainable.loss(rng, part, data)
                self._updater.add(loss / len(self._parts))
                terms.append({"loss": loss.item(), **metrics})
            norm = self._updater.update()
        if self._average is not None:
            self._average.update(self._updates)
        further = self._trainable.after_update()
        means = {name: sum(term[name] for term in terms) / len(terms) for name in terms[0]}
        return {**mean_metrics(means | further), "gradient_norm": norm, "learning_rate": learning_rate}

    def _read(self, step: int) -> list[tuple[np.random.Generator, Any]]:
        """For each part of a step's batch its data, and the generator with which they were sampled."""
        generators = [np.random.default_rng([self._config.seed, step]) for _ in self._parts]
        return [(rng, self._trainable.read(rng, part)) for rng, part in zip(generators, self._parts, strict=True)]

    def _make_speed(self) -> Speed:
        """Counts the operations of an update, by a first one without effect, where the hardware's peak is known."""
        config = self._config
        peak = peak_flops(config.precision, self._device)
        if peak is None:
            return Speed(config.batch_size)
        model = self._trainable.model.train()
        with seeded_rng(0, self._device), self._precision:
            rng, part = [config.seed, self._updates], self._parts[0]
            self._trainable.loss(np.random.default_rng(rng), part)  # what is computed once a segment is not counted
            with FlopCounterMode(display=False) as counter:
                self._trainable.loss(np.random.default_rng(rng), part)[0].backward()
        model.zero_grad(set_to_none=True)
        return Speed(config.batch_size, counter.get_total_flops() * len(self._parts), peak)

    def _averaged(self) -> AbstractContextManager[None]:
        return nullcontext() if self._average is None else self._average.applied()

    def _validate(self) -> Metrics:
        self._trainable.model.eval()
        videos = self._folder / VIDEOS
        with writing(videos, CHECKPOINT_KEPT):
            videos.mkdir(exist_ok=True)
        with torch.no_grad(), self._precision, self._averaged():
            metrics = self._trainable.validate(videos / f"{self._updates:07d}")
        return {f"validation/{name}": value for name, value in metrics.items()}
