"""Reading batches ahead of their updates, in threads, so that training does not wait for the disk."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

AHEAD = 2  # batches that are read ahead, each by a thread of its own

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Reads the batches of consecutive steps ahead.

    Args:
        read: from a step, its batch: a function of the step alone, that threads may call at once.
        steps: no batch of this step or a later one is read.

    Attributes:
        waited: seconds for which :meth:`get` has waited in all.
    """

    def __init__(self, read: Callable[[int], T], steps: int) -> None:
        self.waited = 0.0
        self._read, self._steps = read, steps
        self._pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="prefetch")
        self._futures: dict[int, Future[T]] = {}

    def get(self, step: int) -> T:
        """The batch of a step; the next ones are begun. Raises what reading it raised."""
        for ahead in range(step, min(step + AHEAD + 1, self._steps)):
            if ahead not in self._futures:
                self._futures[ahead] = self._pool.submit(self._read, ahead)
        begin = time.perf_counter()
        batch = self._futures.pop(step).result()
        self.waited += time.perf_counter() - begin
        return batch

    def close(self) -> None:
        """End the threads. What is being read is finished and dropped."""
        self._pool.shutdown(cancel_futures=True)
