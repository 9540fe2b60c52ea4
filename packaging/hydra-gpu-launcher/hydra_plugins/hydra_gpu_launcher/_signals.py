"""Lets signals end a sweep only where it waits, so that no process and no job gets lost."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class DeferredSignals:
    """Ctrl-C and SIGTERM take effect in ``check()``, as the previous handlers say.

    In a thread other than the main one, which gets no signals, it does nothing.
    """

    _NUMBERS = (signal.SIGINT, signal.SIGTERM)

    def __enter__(self) -> DeferredSignals:
        self._pending: list[tuple[int, FrameType | None]] = []
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in self._NUMBERS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._handle:  # not replaced by the previous handler
                signal.signal(number, handler)

    def check(self) -> None:
        """Call the previous handlers for the signals that came.

        Raises:
            SystemExit: SIGTERM came, and would have ended the process.
        """
        while self._pending:
            number, frame = self._pending.pop(0)
            handler = self._before[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)
            else:
                raise SystemExit(128 + number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._pending.append((number, frame))
