"""The thread that receives a stream: reconnects, and keeps a bounded queue of frames."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from threading import Condition, Thread
from typing import Protocol

from pipeline.sources.live.connection import Arrived, LostError
from pipeline.system.terminal import print_stderr

_POLL_S = 0.1  # waits are short, because a signal handler may not notify
_JOIN_S = 2.0
_QUEUE = 16  # frames
_log = logging.getLogger("d2run")


class Frames(Protocol):
    """A connection to a stream."""

    def frames(self) -> Iterator[Arrived]:
        """Yield the frames; raise LostError if the stream is lost."""
        ...


class Capture:
    """Receives a stream on its own thread, and keeps the frames until they are requested.

    A stream that is lost is connected again, after a pause that doubles up to a limit. Frames that
    do not fit the queue are dropped, or keep the stream waiting.

    Args:
        connect: Returns a connection, by its number and the last timestamp that arrived.
        shown: The address without secrets, for messages.
        retries: Number of attempts to connect again, in a row, before the stream counts as lost.
        max_backoff_s: The longest pause before an attempt, in seconds.
        drops: Whether to drop the oldest frames of a live stream when the queue is full.
        duration_s: Stop so many seconds after the first frame was requested; ``None``: never.
        max_frames: Stop after so many frames; ``None``: never.

    Attributes:
        problem: Why the stream ended early; empty if it did not.
        n_arrived: Number of frames that were received.
        n_dropped: Number of frames that were dropped because the queue was full.
        is_closed: Whether nobody wants the frames any longer.
    """

    def __init__(
        self,
        connect: Callable[[int, int | None], Frames],
        shown: str,
        *,
        retries: int,
        max_backoff_s: float,
        drops: bool,
        duration_s: float | None = None,
        max_frames: int | None = None,
    ) -> None:
        self._connect, self._shown = connect, shown
        self._retries, self._max_backoff_s = retries, max_backoff_s
        self._drops, self._duration_s, self._left = drops, duration_s, max_frames
        self.problem, self.n_arrived, self.n_dropped = "", 0, 0
        self._queue: deque[Arrived] = deque()
        self._changed = Condition()
        self._deadline_s = float("inf")
        self._is_requested = self._is_stopped = self._is_over = self.is_closed = False
        self._last_pts: int | None = None
        self._n_lost = 0  # connections
        self._thread = Thread(target=self._work, name="capture", daemon=True)

    def start(self) -> None:
        """Start to receive."""
        self._thread.start()

    def stop(self) -> None:
        """Receive no more frames; those in the queue remain. Safe in signal handlers."""
        self._is_stopped = True

    def close(self) -> None:
        """Stop, drop what is in the queue, and wait a little for the thread."""
        self._is_stopped = self.is_closed = True
        with self._changed:
            self._queue.clear()
            self._changed.notify_all()
        self._thread.join(_JOIN_S)

    def first(self, connection: int | None = None) -> Arrived | None:
        """Return the next frame, which stays in the queue; wait for it.

        Args:
            connection: Wait only for a frame of this connection; ``None``: of any.

        Returns:
            ``None`` at the end of the stream, or if the connection is lost.
        """
        with self._changed:
            while not self._queue:
                is_lost = connection is not None and connection < self._n_lost
                if is_lost or self._is_over or self._is_ending():
                    return None
                self._changed.wait(_POLL_S)
            return self._queue[0]

    def next_if(
        self, accepts: Callable[[Arrived], bool], connection: int | None = None
    ) -> Arrived | None:
        """Remove and return the next frame, if it is accepted.

        Args:
            accepts: Called with the frame.
            connection: See ``first``.

        Returns:
            ``None`` if it is not, at the end of the stream, or if the connection is lost.
        """
        with self._changed:
            if not self._is_requested and self._duration_s is not None:
                self._deadline_s = time.monotonic() + self._duration_s
            self._is_requested = True
            arrived = self.first(connection)
            if arrived is None or not accepts(arrived):
                return None
            self._queue.popleft()
            if self._left is not None:
                self._left -= 1
                if self._left <= 0:
                    self._is_stopped = True
                    self._queue.clear()
            self._changed.notify_all()
            return arrived

    def _is_ending(self) -> bool:
        self._is_stopped = self._is_stopped or time.monotonic() >= self._deadline_s
        return self._is_stopped

    def _work(self) -> None:
        try:
            self._receive()
        except BaseException as exc:
            _log.exception("the thread that receives the stream failed")
            self.problem = f"unexpected {type(exc).__name__}"
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _receive(self) -> None:
        number = attempts = 0
        while not self._is_ending():
            before = self.n_arrived
            try:
                for arrived in self._connect(number, self._last_pts).frames():
                    if not self._add(arrived):
                        return
                return
            except LostError as exc:
                lost = exc
            if self.n_arrived > before:
                number, attempts = number + 1, 0
                with self._changed:  # its results must not wait for the next connection
                    self._n_lost = number
                    self._changed.notify_all()
            if self._is_ending():
                return
            if attempts >= self._retries or (lost.is_final and not self.n_arrived):
                self.problem = str(lost)
                return
            pause_s = min(2.0**attempts, self._max_backoff_s)
            attempts += 1
            self._say(lost, pause_s, attempts)
            self._wait(pause_s)

    def _say(self, lost: LostError, pause_s: float, attempts: int) -> None:
        text = (
            f"'{self._shown}': {lost}; connecting again in {pause_s:g} s (attempt {attempts} of "
            f"{self._retries})"
        )
        _log.info("%s", text)  # without handlers, a warning would be printed twice
        print_stderr(f"warning: {text}")

    def _wait(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        with self._changed:
            while not self._is_ending() and (left_s := until_s - time.monotonic()) > 0:
                self._changed.wait(min(_POLL_S, left_s))

    def _add(self, arrived: Arrived) -> bool:
        """Add a frame to the queue; return False if no more frames are wanted."""
        self.n_arrived += 1
        with self._changed:
            drops = self._drops and not arrived.is_recording
            while len(self._queue) >= _QUEUE and not self._is_ending():
                if not drops:
                    self._changed.wait(_POLL_S)
                elif self._is_requested:
                    self._queue.popleft()
                    self.n_dropped += 1
                else:  # the model is loaded; the first frames stay, whose time is the asset's id
                    return True
            if self._is_ending():
                return False
            self._last_pts = arrived.decoded.pts
            self._queue.append(arrived)
            self._changed.notify_all()
            return True
