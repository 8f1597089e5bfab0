"""One training run: a loop that any model fits, in a folder that can be resumed exactly.

    config.json         what is trained, with which settings
    last.safetensors    weights, optimizer and step of the newest checkpoint, replaced in one rename
    metrics.jsonl       a line a log interval
    events.out.*        the same for TensorBoard
    videos/             reconstructions or predictions beside the real frames

Batches and dropout masks are functions of the seed and the step alone, so nothing but the step has to be remembered of
them, and a run that was killed goes on as if it had not been.
"""

import json
import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from worldgym.errors import CheckpointError, ConfigError, DependencyNotInstalled, TrainingError
from worldgym.files import atomic_json, atomic_write, read_json, writing

Metrics = dict[str, float]
SLOW_FACTOR = 0.1
METRICS = "metrics.jsonl"
CHECKPOINT_KEPT = "The last checkpoint is kept: add --resume to go on from it"


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the loop; the schedule is linear warm-up, then a cosine to zero at ``steps``."""

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
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or not self.learning_rate > 0:
            raise ConfigError(f"steps, batch_size and learning_rate must be positive, got {self}")
        if min(self.log_every, self.validate_every, self.save_every) < 1:
            raise ConfigError(f"log_every, validate_every and save_every must be positive, got {self}")
        check_precision(self.precision)

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * step / self.steps))


class Trainable(Protocol):
    """What the loop needs of a training job."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""

    @property
    def slow(self) -> nn.Module | None:
        """A part of the model that learns at ``SLOW_FACTOR`` times the rate, if any."""

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, Metrics]:
        """The loss of a batch drawn with ``rng``, and figures to log."""

    def finish(self) -> None:
        """Called once, behind the last step and before its checkpoint."""

    def validate(self, videos: Path) -> Metrics:
        """Figures on held-out data; may write a video named ``videos``.gif."""

    def state(self) -> dict[str, Tensor]:
        """Tensors to remember beside the weights."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of ``state``."""


def train(job: Trainable, config: TrainingConfig, folder: Path, about: Mapping[str, Any], resume: bool = False) -> int:
    """Run or resume a training job until ``config.steps``; the step reached.

    SIGINT and SIGTERM end it after the step under way, with a checkpoint.

    Raises:
        TrainingError: if the folder holds another run, or if the loss stops being finite (the last checkpoint is kept).
        StorageError: if the disk refuses (the last checkpoint is kept).
    """
    device = next(job.model.parameters()).device
    optimizer = torch.optim.AdamW(_parameter_groups(job.model, config.weight_decay, job.slow), betas=(0.9, 0.95))
    resumed = open_run(folder, {"training": vars(config), **about}, resume)
    step = load_checkpoint(folder, job, optimizer) if resumed and (folder / "last.safetensors").exists() else 0
    precision = autocast(config.precision, device)
    with Log(folder, config.steps, step) as log, stop_signals() as stopped:
        while step < config.steps and not stopped:
            metrics = _train_step(job, optimizer, config, step, precision)
            step += 1
            if step == config.steps:
                with precision:
                    job.finish()
            if step % config.log_every == 0:
                log.write(step, metrics)
            if step % config.validate_every == 0 or step == config.steps:
                log.write(step, _validate(job, precision, folder, step))
            if step % config.save_every == 0 or step == config.steps or stopped:
                save_checkpoint(folder, job, optimizer, step)
            log.advance(f"loss {metrics['loss']:.4f}")
    return step


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Mixed precision where :func:`wants_bfloat16` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wants_bfloat16(precision, device))


def check_precision(precision: str) -> None:
    """Raise :class:`ConfigError` for what :func:`autocast` does not know."""
    if precision not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"precision must be 'auto', 'float32' or 'bfloat16', got {precision!r}")


def wants_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether ``precision`` means bfloat16 there; ``auto`` asks the hardware."""
    if precision == "auto":
        return torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_has_bfloat16()
    return precision == "bfloat16"


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices itself (emulation is slower than float32)."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported()) if supported else False


def _train_step(
    job: Trainable, optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int, precision: torch.autocast
) -> Metrics:
    torch.manual_seed(config.seed * 1_000_003 + step)
    job.model.train()
    with precision:
        loss, metrics = job.loss(np.random.default_rng([config.seed, step]))
    if not torch.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss.item()} at step {step}; the last checkpoint is kept. "
            f"Resume with a lower learning rate than {config.learning_rate}"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(job.model.parameters(), config.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = group["factor"] * config.rate(step)
    optimizer.step()
    return {"loss": loss.item(), **metrics, "gradient_norm": norm.item(), "learning_rate": config.rate(step)}


def _validate(job: Trainable, precision: torch.autocast, folder: Path, step: int) -> Metrics:
    job.model.eval()
    with writing(folder / "videos", CHECKPOINT_KEPT):
        (folder / "videos").mkdir(exist_ok=True)
    with torch.no_grad(), precision:
        return {f"validation/{name}": value for name, value in job.validate(folder / "videos" / f"{step:07d}").items()}


def _parameter_groups(model: nn.Module, weight_decay: float, slow: nn.Module | None) -> list[dict[str, Any]]:
    """Weight decay on matrices only: none on norms, biases and embeddings (paper, appendix A.2); ``slow`` by itself."""
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


def open_run(folder: Path, described: Mapping[str, Any], resume: bool) -> bool:
    """Begin or resume the run in ``folder``, whose ``config.json`` holds what is ``described``; whether it is resumed.

    Raises:
        TrainingError: if the folder holds a run that is not to be resumed, another run than the one to be resumed, or
            none to resume.
        StorageError: if the folder cannot be written.
    """
    check_run(folder, resume)
    path = folder / "config.json"
    if not resume:
        atomic_json(path, described)
        return False
    found, wanted = read_json(path), json.loads(json.dumps(described))
    if different := setting_differences(found, wanted):
        raise TrainingError(
            f"{path} describes another run: {'; '.join(different)}. Repeat its settings, or choose another folder"
        )
    return True


def setting_differences(found: Mapping[str, Any], wanted: Mapping[str, Any], within: str = "") -> list[str]:
    """What differs, by its name, as a person would say it."""
    told: list[str] = []
    for name in sorted({*found, *wanted}):
        there, asked = found.get(name), wanted.get(name)
        if isinstance(there, dict) and isinstance(asked, dict):
            told += setting_differences(there, asked, f"{within}{name}.")
        elif there != asked:
            told.append(f"{within}{name} is {there!r} there, {asked!r} was asked for")
    return told


def check_run(folder: Path, resume: bool) -> None:
    """Raise :class:`TrainingError` unless ``folder`` holds a run exactly if one is to be resumed."""
    path = folder / "config.json"
    if path.exists() and not resume:
        raise TrainingError(f"{folder} already holds a run; add --resume to continue it, or choose another folder")
    if resume and not path.exists():
        raise TrainingError(f"nothing to resume: {path} does not exist")


def save_checkpoint(folder: Path, job: Trainable, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write ``last.safetensors``: weights, optimizer, the job's own state, the step.

    Raises:
        StorageError: if the disk refuses; the checkpoint before this one is kept.
    """
    tensors = {f"model.{name}": value for name, value in job.model.state_dict().items()}
    tensors |= {f"job.{name}": value for name, value in job.state().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in entries.items()}
    with atomic_write(folder / "last.safetensors") as aside:
        save_file({name: value.contiguous() for name, value in tensors.items()}, aside, {"step": str(step)})


def load_checkpoint(folder: Path, job: Trainable, optimizer: torch.optim.Optimizer) -> int:
    """Inverse of :func:`save_checkpoint`; the step it was written at."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "job": {}, "optimizer": {}}
    step, tensors = read_checkpoint(folder)
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        parts[kind][rest] = value
    job.model.load_state_dict(parts["model"])
    job.load_state(parts["job"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["optimizer"].items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def read_checkpoint(folder: Path) -> tuple[int, dict[str, Tensor]]:
    """Step and tensors of a run's newest checkpoint.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    with _opened(folder) as file:
        return int(file.metadata()["step"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def checkpoint_step(folder: Path) -> int:
    """Step of a run's newest checkpoint, without reading its tensors; raises as :func:`read_checkpoint` does."""
    with _opened(folder) as file:
        return int(file.metadata()["step"])


@contextmanager
def _opened(folder: Path) -> Iterator[Any]:
    path = folder / "last.safetensors"
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of a training run: {error}") from error


class Log:
    """Progress bar of ``steps`` steps, ``metrics.jsonl`` and TensorBoard, from ``step`` on.

    Raises:
        DependencyNotInstalled: without TensorBoard.
        StorageError: if the disk refuses.
    """

    def __init__(self, folder: Path, steps: int, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise DependencyNotInstalled("training logs to TensorBoard; run `pip install worldgym[train]`") from error
        self._folder = folder
        _forget(folder / METRICS, step)
        with self._writing():
            self._board = SummaryWriter(str(folder), purge_step=step)
            self._file = (folder / METRICS).open("a")
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
        """Add the figures of a step."""
        seconds = round(time.monotonic() - self._start, 1)
        with self._writing():
            self._file.write(json.dumps({"step": step, "seconds": seconds, **metrics}) + "\n")
            self._file.flush()
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)

    def advance(self, said: str, steps: int = 1) -> None:
        """Move the bar on and let it say something."""
        self._bar.set_postfix_str(said, refresh=False)
        self._bar.update(steps)

    def _writing(self) -> AbstractContextManager[None]:
        return writing(self._folder / METRICS, CHECKPOINT_KEPT)


def _forget(path: Path, step: int) -> None:
    """Drop the lines beyond ``step``, which a run that was killed wrote after its last checkpoint."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return
    kept = [line for line in lines if _logged_at(line) <= step]
    if kept != lines:
        with atomic_write(path) as aside:
            aside.write_text("".join(f"{line}\n" for line in kept))


def _logged_at(line: str) -> float:
    """The step of a line; infinity for one that was cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that fills when the process is asked to stop; a second request stops it at once."""
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {}
    for asked in (signal.SIGINT, signal.SIGTERM):
        before[asked] = signal.signal(asked, stop)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
