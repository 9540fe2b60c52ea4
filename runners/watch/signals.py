"""Translates signals into requests to a watch: stop, or reopen the log and finalize."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from runners.signals import stop_handled


@dataclass
class StopRequests:
    """The requests that signals have made so far.

    Attributes:
        exit_status: The exit status to end with; ``None`` until a stop is requested.
        requested_s: When the stop was requested, on the monotonic clock.
        refresh: Whether SIGHUP has requested a new log file and up-to-date results.
    """

    exit_status: int | None = None
    requested_s: float | None = None
    refresh: bool = False

    @property
    def stop(self) -> bool:
        """Whether a stop is requested."""
        return self.exit_status is not None

    def request_stop(self, exit_status: int) -> None:
        """Request the run to stop in order."""
        self.requested_s, self.exit_status = time.monotonic(), exit_status


@contextmanager
def sighup_ignored() -> Iterator[None]:
    """Ignore SIGHUP while the block runs, except where ``signals_handled`` handles it.

    Without this, logrotate would end a run that is still loading its model.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def signals_handled(
    requests: StopRequests,
    wake: Callable[[], None],
    abort: Callable[[], None],
    abort_after_s: float,
) -> Iterator[None]:
    """Turn signals into requests while the block runs.

    SIGTERM requests a stop with status 0, because in-flight work is finished first, and SIGINT one
    with 130. A second one of them ends the process at once; committed results are kept. SIGHUP
    requests a refresh.

    Args:
        requests: Is updated by the signal handlers.
        wake: Called by the signal handlers, to end a wait.
        abort: Called on another thread if the block has not ended ``abort_after_s`` after a stop
            was requested.
        abort_after_s: Seconds.
    """
    # SimpleQueue.put is reentrant, so a signal handler may call it at any point
    stops: SimpleQueue[bool] = SimpleQueue()

    def enforce() -> None:
        if stops.get():
            with suppress(Empty):
                stops.get(timeout=abort_after_s)
                return
            abort()

    def stop(exit_status: int) -> None:
        requests.request_stop(exit_status)
        stops.put(True)
        wake()

    def hang_up() -> None:
        requests.refresh = True
        wake()

    thread = threading.Thread(target=enforce, name="enforce-stop", daemon=True)
    thread.start()
    try:
        with stop_handled(stop, {signal.SIGHUP: hang_up}):
            yield
    finally:
        stops.put(False)
        thread.join()
