"""Stopping a run cleanly: SIGINT and SIGTERM are noted, and the run ends at its next safe point."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect requests to stop.

    Yields:
        A list that is empty until the process receives SIGINT or SIGTERM, and then holds the signal's number. A second
        signal of the same kind has its usual effect at once. Outside the main thread, where Python allows no signal
        handlers, the list stays empty.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def stop(received_number: int, stack: object) -> None:
        received.append(received_number)
        signal.signal(received_number, previous[received_number])

    signals = (signal.SIGINT, signal.SIGTERM)
    # None stands for a handler that was not set by Python and cannot be set again.
    previous: dict[int, Any] = {number: signal.getsignal(number) or signal.SIG_DFL for number in signals}
    for number in signals:
        signal.signal(number, stop)
    try:
        yield received
    finally:
        for restored, handler in previous.items():
            signal.signal(restored, handler)
