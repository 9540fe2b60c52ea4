"""Handles signals: the first SIGTERM or SIGINT stops a run in order, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

EXIT_STATUS = {signal.SIGTERM: 0, signal.SIGINT: 130}  # SIGTERM is how a service is stopped


@contextmanager
def stop_handled(
    stop: Callable[[int], None], others: Mapping[int, Callable[[], None]] | None = None
) -> Iterator[None]:
    """Handle signals while the block runs, if this is the main thread: no other may.

    Args:
        stop: Called with the exit status, at the first SIGTERM (0) or SIGINT (130). The second
            ends the process at once; what is committed is kept.
        others: What to call at other signals.
    """
    stopped = False

    def on_stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped:
            os._exit(128 + number)
        stopped = True
        stop(EXIT_STATUS[signal.Signals(number)])

    def on_other(number: int, frame: FrameType | None) -> None:
        (others or {})[number]()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = dict.fromkeys(EXIT_STATUS, on_stop) | dict.fromkeys(others or {}, on_other)
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
