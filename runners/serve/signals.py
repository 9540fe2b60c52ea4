"""Waits for SIGTERM and SIGINT."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from contextlib import suppress
from types import FrameType
from typing import Any


class StopSignals:
    """Reports the first SIGTERM or SIGINT while the block runs; the second one ends the process.

    Python runs a signal's handler on the main thread as soon as that executes bytecode. A lock or
    a queue can miss the signal that arrives just before it blocks, so a socket wakes the thread.
    """

    def __init__(self) -> None:
        self._first = 0
        self._before: dict[int, Any] = {}
        self._woken, self._wakes = socket.socketpair()
        self._wakes.setblocking(False)

    def __enter__(self) -> StopSignals:
        """Handle the signals, if this is the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._fd_before = signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
            numbers = (signal.SIGTERM, signal.SIGINT)
            self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Restore the handlers of before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._fd_before)
        self._woken.close()
        self._wakes.close()

    @property
    def number(self) -> int:
        """The number of the first signal; 0 if there was none."""
        return self._first

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

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._first:
            os._exit(128 + number)
        self._first = number
