"""Training by several processes, each on its own part of every batch.

Hugging Face Accelerate's launcher starts the processes, and Accelerate chooses how they communicate. Every process
holds the whole model and makes the same updates: what depends on the batch (gradients, codebooks, statistics, metrics)
is reduced over the processes before it is used. So their models stay equal, and equal to that of one process but for
rounding and dropout. The first process alone writes files.

Without a group of processes all functions work for a single one, without communication.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from worldgym.devices import checked_device
from worldgym.errors import ConfigError, DependencyNotInstalled, TrainingError

TIMEOUT = timedelta(hours=6)  # the others wait as long while the first process validates or fits heads
LAUNCH = "accelerate launch --multi_gpu --num_processes 2 -m worldgym train"

_launcher: int | None = None  # the parent of this process when it joined


@dataclass(frozen=True)
class Part:
    """One of several equal, contiguous parts of a batch."""

    index: int = 0
    count: int = 1

    def of(self, rows: int) -> slice:
        """The rows of the part, of a batch of so many; ``count`` must divide them."""
        size = rows // self.count
        return slice(self.index * size, (self.index + 1) * size)


WHOLE = Part()


def parts(batch_size: int, accumulate: int = 1) -> list[Part]:
    """The parts of a batch that this process computes one after the other.

    Args:
        batch_size: rows of the whole batch, over all processes.
        accumulate: number of parts.

    Raises:
        ConfigError: if the batch cannot be divided so.
    """
    count = world_size() * accumulate
    if batch_size % count:
        raise ConfigError(
            f"batch_size: expected a multiple of {count}, the number of processes ({world_size()}) times --accumulate "
            f"({accumulate}), got {batch_size}: change one of the three"
        )
    return [Part(rank() * accumulate + index, count) for index in range(accumulate)]


@contextmanager
def joined(device: str | None = None) -> Iterator[str | None]:
    """Join the other processes of a launcher, if the environment says that there are several.

    Args:
        device: ``cpu`` or ``cuda``; None is the GPU if there is one.

    Yields:
        The device of this process; ``device`` itself if it is the only one.

    Raises:
        ConfigError: for a device that several processes cannot share or that cannot be used here, and if the
            environment contradicts itself.
        DependencyNotInstalled: without Accelerate.
    """
    global _launcher
    if not _several(os.environ):
        yield device
        return
    if device not in (None, "cpu", "cuda"):
        raise ConfigError(f"device: expected cpu or cuda for several processes, got {device!r}: each takes its own GPU")
    if device == "cuda" and not torch.cuda.is_available():  # otherwise a check would take memory of the first GPU
        checked_device(device)
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise DependencyNotInstalled("several processes need Accelerate; `pip install worldgym[accelerate]`") from error
    asked_for_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" or device == "cpu"
    _launcher = os.getppid()
    state = PartialState(cpu=asked_for_cpu or not torch.cuda.is_available(), timeout=TIMEOUT)
    yield str(state.device)
    dist.destroy_process_group()  # not after an error: the others may wait for something else, or be gone


def _several(environment: Mapping[str, str]) -> bool:
    """Whether the environment is that of one of several processes."""
    size = environment.get("WORLD_SIZE")
    if size is None and "ACCELERATE_USE_CPU" in environment and "MASTER_ADDR" in environment:
        raise ConfigError(
            "expected several processes, got one: `accelerate launch --cpu` starts a single process on each machine; "
            f"`{LAUNCH} ...` starts several, also on machines without a GPU"
        )
    if size not in (None, "1") and "LOCAL_RANK" not in environment:
        raise ConfigError(
            f"expected LOCAL_RANK beside WORLD_SIZE={size} in the environment, got none: start several processes by "
            f"`{LAUNCH} ...`, or unset WORLD_SIZE for one"
        )
    return size not in (None, "1")


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if _grouped() else 1


def rank() -> int:
    """The number of this process."""
    return dist.get_rank() if _grouped() else 0


def is_main() -> bool:
    """Whether this is the first process."""
    return rank() == 0


def sum_(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their sums over the processes, by one message for each dtype and device."""
    if world_size() == 1:
        return
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for group in groups.values():
        buffer = torch.cat([tensor.detach().flatten() for tensor in group])
        with _connected():
            dist.all_reduce(buffer)
        for tensor, part in zip(group, buffer.split([tensor.numel() for tensor in group]), strict=True):
            tensor.detach().copy_(part.view(tensor.shape))


def mean_(tensors: Iterable[Tensor]) -> None:
    """Replace floating tensors by their means over the processes."""
    if world_size() == 1:
        return
    tensors = list(tensors)
    sum_(tensors)
    for tensor in tensors:
        tensor.detach().div_(world_size())


def mean_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """The means over the processes; all have metrics of the same names."""
    if world_size() == 1:
        return dict(metrics)
    values = torch.tensor(list(metrics.values()), dtype=torch.float32, device=_device())
    mean_([values])
    return dict(zip(metrics, values.tolist(), strict=True))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        sum_([total])
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        sum_([total])
        return total


def summed(tensor: Tensor) -> Tensor:
    """The sum over the processes. Gradients pass through it, from the losses of all processes."""
    result: Tensor = tensor if world_size() == 1 else _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return result


def gather(tensor: Tensor) -> Tensor:
    """The tensors of all processes, of equal shapes, joined along the first dimension in the order of the processes."""
    if world_size() == 1:
        return tensor
    tensor = tensor.contiguous()
    gathered = [torch.empty_like(tensor) for _ in range(world_size())]
    with _connected():
        dist.all_gather(gathered, tensor)
    return torch.cat(gathered)


@torch.no_grad()
def copy_from_main(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by those of the first process."""
    if world_size() == 1:
        return
    for tensor in tensors:
        message = tensor.detach().contiguous()
        with _connected():
            dist.broadcast(message, 0)
        tensor.copy_(message)


def any_(flag: bool) -> bool:
    """Whether a flag is set in any process."""
    if world_size() == 1:
        return flag
    total = torch.tensor(float(flag), device=_device())
    sum_([total])
    return bool(total > 0)


def barrier() -> None:
    """Wait for all processes."""
    any_(False)


def launcher_gone() -> bool:
    """Whether the launcher of this process was killed: nothing would end the process then."""
    return _launcher is not None and os.getppid() != _launcher


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def _device() -> torch.device:
    """The device of messages that are not made from tensors."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


@contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]  # advice follows
        raise TrainingError(
            f"process {rank()} of {world_size()} lost the others, one of which has ended: {reason}. The last "
            "checkpoint is kept: see the other processes' messages, then repeat the command with --resume"
        ) from error
