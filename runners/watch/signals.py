"""What signals ask of a run that waits: to stop in order, or to begin its files anew."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import FrameType


@dataclass
class Wishes:
    """What has been asked for so far.

    Attributes:
        status: The exit status to end with; ``None`` as long as nobody asks.
        stopped_s: When that was asked, on the monotonic clock.
        anew: Whether SIGHUP has come since this was last set to False.
    """

    status: int | None = None
    stopped_s: float = 0.0
    anew: bool = False


@contextmanager
def hang_up_ignored() -> Iterator[None]:
    """Have SIGHUP do nothing while the block runs, but for what ``heeded`` makes of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # or logrotate would end a run whose model is being loaded
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def heeded(wake: Callable[[], None], late: Callable[[], None], late_s: float) -> Iterator[Wishes]:
    """Note signals instead of being interrupted by them, while the block runs.

    SIGTERM asks for the end with status 0, for the work begun is finished first; SIGINT for 130.
    A second one ends the process at once: what is committed stays.

    Args:
        wake: Called by the handlers, to end a wait.
        late: Called on another thread when the block has not ended ``late_s`` after it was asked
            to; its exceptions are the thread's.
        late_s: Seconds.
    """
    wishes = Wishes()
    asked: SimpleQueue[bool] = SimpleQueue()  # whole operations: a handler may put

    def hurry() -> None:
        if asked.get():
            with suppress(Empty):
                asked.get(timeout=late_s)
                return
            late()

    def stop(number: int, frame: FrameType | None) -> None:
        if wishes.status is not None:
            os._exit(128 + number)
        wishes.status = 130 if number == signal.SIGINT else 0
        wishes.stopped_s = time.monotonic()
        asked.put(True)
        wake()

    def hang_up(number: int, frame: FrameType | None) -> None:
        wishes.anew = True
        wake()

    if threading.current_thread() is not threading.main_thread():
        yield wishes  # only the main thread may set handlers
        return
    wanted = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: hang_up}
    thread = threading.Thread(target=hurry, name="hurry", daemon=True)
    thread.start()
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield wishes
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        asked.put(False)
        thread.join()
