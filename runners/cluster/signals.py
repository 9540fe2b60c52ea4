"""Keeps signals out of calls into Ray, which does not survive an exception of a handler."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Handle SIGTERM and SIGINT after the block, with the handlers from before; Ray sets its own.

    The second signal ends the process.
    """
    if threading.current_thread() is not threading.main_thread():  # no other handles them
        yield
        return
    received: list[int] = []

    def defer(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, defer) for number in numbers}
    try:
        yield
    except SystemExit as exc:
        if exc.code == signal.SIGTERM:  # of Ray's handler, which it sets when it connects
            received.append(signal.SIGTERM)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for deferred in received:
            signal.raise_signal(deferred)
