"""Waits for SIGTERM and SIGINT."""

from __future__ import annotations

import select
import signal
import socket
import threading
from contextlib import ExitStack, suppress

from runners.signals import stop_handled


class StopSignals:
    """Reports the first SIGTERM or SIGINT while the block runs; the second one ends the process.

    Attributes:
        exit_status: The exit status to end with: 0 or 130; ``None`` before the signal.

    Python runs a signal's handler on the main thread as soon as that executes bytecode. A lock or
    a queue can miss the signal that arrives just before it blocks, so a socket wakes the thread.
    """

    def __init__(self) -> None:
        self.exit_status: int | None = None
        self._entered = ExitStack()
        self._woken, self._wakes = socket.socketpair()
        self._wakes.setblocking(False)

    def __enter__(self) -> StopSignals:
        """Handle the signals, if this is the main thread."""
        with ExitStack() as stack:
            stack.callback(self._woken.close)
            stack.callback(self._wakes.close)
            if threading.current_thread() is threading.main_thread():
                wakes = self._wakes.fileno()
                fd_before = signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
                stack.callback(signal.set_wakeup_fd, fd_before)
            stack.enter_context(stop_handled(self._stop))
            self._entered = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Restore the handlers of before."""
        self._entered.close()

    def wait(self, timeout_s: float) -> bool:
        """Wait for a signal or ``wake``; return whether there was one in time."""
        is_woken = bool(select.select([self._woken], [], [], timeout_s)[0])
        if is_woken:
            self._woken.recv(64)
        return is_woken

    def wake(self) -> None:
        """End a wait. Can be called on any thread, and after the block."""
        with suppress(OSError):
            self._wakes.send(b"\0")

    def _stop(self, exit_status: int) -> None:
        self.exit_status = exit_status
