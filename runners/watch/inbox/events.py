"""Be woken when a folder changes. Only a hint: events get lost, and the scan finds all."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.errors import printable
from pipeline.sources.scan import left_out

_log = logging.getLogger("d2run")
_STEP_MS = 100  # how long a burst must pause to be told; half of it is the mean delay
_CHECK_MS = 1000  # how often to look whether the root is still the folder that is watched
_DELETED = 3  # watchfiles.Change.deleted
_LONGEST_S = 86400.0  # a socket's timeout cannot be much longer than this


class Events:
    """Wakes who waits when something below a folder has changed.

    A daemon thread listens to the kernel. It dies of a name that is not UTF-8, of the limit on
    inotify watches, or with the folder; that is a line in the log, at most one an hour for a
    cause, and it is started again after 1 s, then 2 s ... 60 s.

    Args:
        root: The folder, watched with all below it.
        events: ``False``: only ``wake()`` wakes.
        leave_out: Folders below it whose changes are no news: what was moved away, the output.
        backoff_s: The first wait before a new start, in seconds, and the longest.

    Attributes:
        alive: Whether the thread listens now.
    """

    def __init__(
        self,
        root: Path,
        *,
        events: bool = True,
        leave_out: Sequence[Path] = (),
        backoff_s: tuple[float, float] = (1.0, 60.0),
    ) -> None:
        self.root = root.absolute()
        self.events = events
        self.alive = False
        self._prefix = f"{self.root}/"
        self._leave_out = tuple(f"{path.absolute()}/" for path in leave_out)
        self._backoff_s = backoff_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._logged_at: dict[str, float] = {}
        self._ears: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> Events:
        """Start to listen."""
        self._ears = socket.socketpair()
        self._ears[1].setblocking(False)
        self._stop.clear()
        if self.events:
            self._thread = threading.Thread(target=self._supervise, name="events", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End the thread, unless the file system holds it: then it ends with the process."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)
        if self._ears is not None:
            for ear in self._ears:
                ear.close()

    def wait(self, timeout_s: float) -> bool:
        """Wait for a change or for ``wake()``; handlers of signals run meanwhile.

        Returns:
            Whether it was woken, also by what happened since the last call, rather than timed out.
        """
        if self._ears is None:
            raise RuntimeError("wait() outside of the with block")
        ear = self._ears[0]
        ear.settimeout(min(max(timeout_s, 0.0), _LONGEST_S))
        try:
            ear.recv(1 << 16)
        except (TimeoutError, BlockingIOError):
            return False
        return True

    def wake(self) -> None:
        """Wake who waits; may be called from a handler of a signal, and from any thread."""
        # A socket takes no lock that the interrupted thread might hold. Full: it is awake anyway.
        if self._ears is not None:
            with suppress(OSError):
                self._ears[1].send(b"\0")

    def _supervise(self) -> None:
        first_s, longest_s = self._backoff_s
        pause_s = first_s
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                self._listen()
            except Exception as exc:  # it only makes things quicker: nothing of it may end a run
                self._log(exc)
            was_alive, self.alive = self.alive, False
            if was_alive:
                self.wake()  # what it died of may have been a file
            if was_alive and time.monotonic() - started > longest_s:
                pause_s = first_s
            self._stop.wait(pause_s)
            pause_s = min(2 * pause_s, longest_s)

    def _listen(self) -> None:
        from watchfiles import watch  # here: a run without events need not load it

        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # a line for each change else
        root = _identity(self.root)
        changes = watch(
            self.root,
            watch_filter=self._is_news,
            step=_STEP_MS,
            debounce=10 * _STEP_MS,
            rust_timeout=_CHECK_MS,
            yield_on_timeout=True,
            stop_event=self._stop,
            force_polling=False,
            ignore_permission_denied=True,  # of a folder below; the others are watched
        )
        for change in changes:
            if not self.alive:
                self.alive = True
                self.wake()  # what came before is not told
            elif change:
                self.wake()
            if _identity(self.root) != root:
                raise FileNotFoundError("the folder has been replaced")

    def _is_news(self, change: int, path: str) -> bool:
        if change == _DELETED or path.startswith(self._leave_out):
            return False
        return not any(map(left_out, path.removeprefix(self._prefix).split("/")))

    def _log(self, exc: Exception) -> None:
        cause, now = type(exc).__name__, time.monotonic()
        if now - self._logged_at.get(cause, float("-inf")) >= 3600.0:
            self._logged_at[cause] = now
            text = printable(f"{exc}")
            _log.warning("no events from %s, only scans, for now: %s", self.root, text)


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116
    return status.st_dev, status.st_ino
