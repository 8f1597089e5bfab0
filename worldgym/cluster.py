"""Work on the machines of a Ray cluster. Ray starts the processes, where there is room, and notices when one dies.

Every machine of the cluster needs worldgym and the simulators. Files that a function reads have to be on all of them;
results come back over the network, so nothing has to be shared for them.
"""

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from worldgym.checkpoints import shipped
from worldgym.errors import ConfigError, DataError, DependencyNotInstalled, WorldGymError

TRIES = 4
"""How often work is begun whose process dies, before it counts as what kills its processes."""
CONNECT_SECONDS = 3.0
START = "`ray start --head` starts one and prints its address; auto finds the one on this machine"

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster, and disconnect at the end; a connection that the caller has already is used and kept.

    Args:
        address: ``HOST:PORT`` of the cluster's head; ``auto`` for the cluster that this machine is part of; ``local``
            starts one on this machine, which ends with the connection.

    Raises:
        DependencyNotInstalled: without Ray.
        ConfigError: if there is no cluster at the address, or one of another version of Ray or Python.
    """
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    _check_reachable(address)
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise ConfigError(f"no Ray cluster at {address!r} that can be used: {error}. {START}") from error
    try:
        yield
    finally:
        ray.shutdown()


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], address: str | None = None, device: str | None = None
) -> Iterator[Result]:
    """A function's results in the order of its arguments, computed here or on a cluster.

    Args:
        function: as for :func:`map_unordered`.
        items: its arguments.
        address: of a cluster, as for :func:`connected`; None computes here, one result after the other.
        device: that the function computes on; on a cluster a worker gets a GPU for ``cuda``, and no other sees one.

    Raises:
        DataError: if the process of an item died repeatedly. Else as :func:`connected` and as the function.
    """
    if address is None:
        yield from map(function, items)
        return
    gpus = 1 if device is not None and device.startswith("cuda") else 0
    early: dict[int, Result] = {}
    wanted = 0
    with connected(address):
        try:
            for (index, _), result in map_unordered(lambda pair: function(pair[1]), enumerate(items), gpus=gpus):
                early[index] = result
                while wanted in early:
                    yield early.pop(wanted)
                    wanted += 1
        except BrokenExecutor as error:
            raise DataError(
                f"a process of the cluster died {TRIES} times at the same work (out of memory?): start Ray with fewer "
                f"CPUs on its machines. Ray says: {error}"
            ) from error


def map_unordered(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None, gpus: int = 0
) -> Iterator[tuple[Item, Result]]:
    """Items with a function's results, each as soon as it is there; needs :func:`connected`.

    Every worker is an actor of one CPU, and of GPUs if they are asked for; others see none. If its process or machine
    dies, a new one does the item again, where there is room or as soon as there is some; results that were yielded are
    not computed again.

    Args:
        function: is sent to the workers with the items, by cloudpickle.
        items: its arguments.
        workers: number of workers; None: as many as the cluster has CPUs, or GPUs for.
        gpus: of each worker.

    Raises:
        WorldGymError: that the function raised.
        BrokenExecutor: if an item's process died for the last of :data:`TRIES` times.
    """
    ray = _ray()
    waiting = deque((item, 1) for item in items)
    actor = ray.remote(num_cpus=1, num_gpus=gpus)(_Worker)
    running: dict[Any, tuple[Any, Item, int]] = {}

    def occupy(worker: Any) -> None:
        if waiting:
            item, tries = waiting.popleft()
            running[worker.call.remote(item)] = worker, item, tries

    for _ in range(min(workers or _room(gpus), len(waiting))):
        occupy(actor.remote(function))
    while running:
        (ready,), _ = ray.wait(list(running), num_returns=1)
        worker, item, tries = running.pop(ready)
        try:
            result = ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, WorldGymError):
                raise error.cause from error
            raise
        except ray.exceptions.RayError as error:
            if tries == TRIES:
                raise BrokenExecutor(str(error).strip().splitlines()[-1]) from error
            waiting.appendleft((item, tries + 1))
            occupy(actor.remote(function))
            continue
        occupy(worker)
        del worker  # without work it ends, so that one that takes the place of another finds a CPU
        yield item, result


def absolute(name: str) -> str:
    """A path or the name of a checkpoint, for workers, whose working folder may be another one than this process's."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() and name not in shipped() else name


def _room(gpus: int) -> int:
    """How many workers the cluster has room for; at least one, which waits for a machine if there is none."""
    resources = _ray().cluster_resources()
    room = resources.get("GPU", 0) / gpus if gpus else resources.get("CPU", 0)
    return max(int(room), 1)


class _Worker(Generic[Item, Result]):
    """What runs in each process."""

    def __init__(self, function: Callable[[Item], Result]) -> None:
        self._function = function

    def call(self, item: Item) -> Result:
        return self._function(item)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report every cluster that it starts
    try:
        import ray
    except ImportError as error:
        raise DependencyNotInstalled("work on a cluster needs Ray: `pip install worldgym[ray]`") from error
    return ray


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # a name such as auto, which Ray answers at once
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"no Ray cluster at {address!r}: {error}. {START}") from error
