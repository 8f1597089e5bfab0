"""Time and memory: what competes is timed in turn, and the best call counts, which other jobs disturb least."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
Job = Callable[[], object]


class Rounds:
    """Seconds a call: of each job the best in each round; within a round the jobs take turns."""

    def __init__(self, jobs: Mapping[str, Job], seconds: float, device: torch.device) -> None:
        """Spend about ``seconds`` on each job, and at least two rounds on all, after one that warms up."""
        self.best: dict[str, list[float]] = {name: [] for name in jobs}
        for job in jobs.values():
            timed(job, device)
        rounds, until = 0, time.perf_counter() + seconds * len(jobs)
        while time.perf_counter() < until or rounds < 2:
            rounds += 1
            for name, job in jobs.items():
                calls = [timed(job, device)]
                while sum(calls) < seconds / 10:
                    calls.append(timed(job, device))
                self.best[name].append(min(calls))

    def seconds(self, name: str) -> float:
        return min(self.best[name])

    def spread(self, name: str) -> float:
        """The median round over the best one: 1 on a machine that did nothing else."""
        return statistics.median(self.best[name]) / self.seconds(name)

    def ratio(self, slower: str, faster: str) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(a / b for a, b in zip(self.best[slower], self.best[faster], strict=True))


def timed(job: Job, device: torch.device) -> float:
    """Seconds until its work is done, on a GPU too."""
    start = time.perf_counter()
    job()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak_growth(work: Callable[[], T], device: torch.device) -> tuple[T, int | None]:
    """What ``work`` returns, and by how many bytes memory grew at its peak; None where the system does not say.

    On a CPU that of the process, on a GPU what is allocated there.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        allocated = torch.cuda.memory_allocated(device)
        return work(), torch.cuda.max_memory_allocated(device) - allocated
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # else what earlier work gave back is used again unseen
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _resident("VmRSS")
    result = work()
    after = _resident("VmHWM")
    return result, None if before is None or after is None else after - before


def _resident(field: str) -> int | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return None
