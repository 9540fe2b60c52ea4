"""Events of the kernel when a folder changes. Events get lost; scans find everything."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.errors import printable
from pipeline.sources.scan import skip_reason
from pipeline.system.files import file_identity
from runners.watch.schedule import BACK_OFF_S, BackOff

_log = logging.getLogger("d2run")
_STEP_MS = 100  # how long a burst must pause to be reported; half of it is the mean delay
_CHECK_MS = 1000  # how often to check that the root is still the same folder
_DELETED = 3  # watchfiles.Change.deleted
_MAX_TIMEOUT_S = 86400.0  # a socket does not support much longer timeouts


class Events:
    """Ends a wait when something below a folder has changed.

    A daemon thread subscribes to the kernel's events. It fails at a name that is not UTF-8, at the
    limit on inotify watches, or when the folder disappears. This is logged, at most once per hour
    and cause, and the thread subscribes again after 1 s, then 2 s ... 60 s.

    Args:
        root: The folder, watched with everything below it.
        events: Whether to subscribe; if not, only ``wake`` ends a wait.
        excluded: Folders below it whose changes are irrelevant: the output, moved files.
        back_off_s: The first and the longest pause before the thread subscribes again.

    Attributes:
        is_subscribed: Whether events are delivered at present.
    """

    def __init__(
        self,
        root: Path,
        *,
        events: bool = True,
        excluded: Sequence[Path] = (),
        back_off_s: tuple[float, float] = BACK_OFF_S,
    ) -> None:
        self.root = root.absolute()
        self.events = events
        self.is_subscribed = False
        self._prefix = f"{self.root}/"
        self._excluded = tuple(f"{path.absolute()}/" for path in excluded)
        self._back_off = BackOff(*back_off_s)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._logged_at: dict[str, float] = {}
        self._sockets: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> Events:
        """Subscribe to events."""
        self._sockets = socket.socketpair()
        self._sockets[1].setblocking(False)
        self._stop.clear()
        if self.events:
            self._thread = threading.Thread(target=self._supervise, name="events", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End the thread. If the file system blocks it, it ends with the process."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)
        if self._sockets is not None:
            for each in self._sockets:
                each.close()

    def wait(self, timeout_s: float) -> bool:
        """Wait for a change or for ``wake``; signal handlers run meanwhile.

        Returns:
            True if it was woken, also by what happened since the last call; False at the timeout.
        """
        if self._sockets is None:
            raise RuntimeError("wait() outside of the with block")
        receiver = self._sockets[0]
        receiver.settimeout(min(max(timeout_s, 0.0), _MAX_TIMEOUT_S))
        try:
            receiver.recv(1 << 16)
        except (TimeoutError, BlockingIOError):
            return False
        return True

    def wake(self) -> None:
        """End the wait. Safe to call from a signal handler and from any thread."""
        # A socket needs no lock, which the interrupted thread might hold. If it is full, the
        # waiting thread has been woken already.
        if self._sockets is not None:
            with suppress(OSError):
                self._sockets[1].send(b"\0")

    def _supervise(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                self._listen()
            except Exception as exc:  # scans find everything, so no error here may end the run
                self._log(exc)
            was_subscribed, self.is_subscribed = self.is_subscribed, False
            if was_subscribed:
                self.wake()  # the event that failed may have been a file
            if was_subscribed and time.monotonic() - started > self._back_off.longest_s:
                self._back_off.reset()
            self._stop.wait(self._back_off.next_s())

    def _listen(self) -> None:
        from watchfiles import watch  # not needed without events

        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # watchfiles logs every change
        root = file_identity(self.root.stat())
        changes = watch(
            self.root,
            watch_filter=self._is_relevant,
            step=_STEP_MS,
            debounce=10 * _STEP_MS,
            rust_timeout=_CHECK_MS,
            yield_on_timeout=True,
            stop_event=self._stop,
            force_polling=False,
            ignore_permission_denied=True,  # to a subfolder; other subfolders are watched
        )
        for change in changes:
            if not self.is_subscribed:
                self.is_subscribed = True
                self.wake()  # what happened before is not reported
            elif change:
                self.wake()
            if file_identity(self.root.stat()) != root:
                raise FileNotFoundError("the folder has been replaced")

    def _is_relevant(self, change: int, path: str) -> bool:
        if change == _DELETED or path.startswith(self._excluded):
            return False
        return not any(map(skip_reason, path.removeprefix(self._prefix).split("/")))

    def _log(self, exc: Exception) -> None:
        cause, now = type(exc).__name__, time.monotonic()
        if now - self._logged_at.get(cause, float("-inf")) >= 3600.0:
            self._logged_at[cause] = now
            text = printable(f"{exc}")
            _log.warning("no events from %s at present, only scans: %s", self.root, text)
