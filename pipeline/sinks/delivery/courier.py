"""Delivers the files of a directory in the background, each at least once."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from threading import Condition, Thread

from pipeline.errors import OutputError
from pipeline.sinks.delivery.endpoint import Answer, Endpoint
from pipeline.system.descriptors import open_to_read, remove, status_of

_log = logging.getLogger(__name__)
_GRACE_S = 2.0  # for a POST that was aborted; only a DNS server can take longer


class Courier:
    """Posts files on a thread, and removes those that the receiver has accepted.

    After a failure it waits, twice as long each time, and goes on with the next file; ``close``
    ends the wait. A file that
    the receiver refuses for good is kept, and not posted again by this courier. Nothing that the
    caller does waits for the receiver, except ``close``.

    Args:
        root: Directory that the names are relative to.
        endpoint: The receiver.
        backoff_s: The first wait.
        max_backoff_s: The longest wait.
    """

    def __init__(
        self, root: Path, endpoint: Endpoint, backoff_s: float, max_backoff_s: float
    ) -> None:
        self._root, self._endpoint = root, endpoint
        self._backoff_s, self._max_backoff_s = backoff_s, max_backoff_s
        self._changed = Condition()
        self._sizes: dict[str, int] = {}  # of all files that are kept
        self._kept_bytes = 0
        self._queue: deque[str] = deque()
        self._posting = ""  # emptied when the file is withdrawn meanwhile
        self._refused = 0
        self._is_closing = False
        self._is_hurried = False  # ends a wait after a failure
        self._is_stopped = False
        self._thread = Thread(target=self._run, name="webhook", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def kept_bytes(self) -> int:
        """Total size of the files that are not delivered yet."""
        with self._changed:
            return self._kept_bytes

    def add(self, names: Iterable[str]) -> None:
        """Deliver files, which exist and may be removed from now on."""
        with self._changed:
            for name in names:
                status = status_of(self._root / name)
                if status is not None:
                    self._sizes[name] = status.st_size
                    self._kept_bytes += status.st_size
                    self._queue.append(name)
            self._changed.notify_all()

    def withdraw(self, name: str) -> None:
        """Forget a file, which is about to be replaced or removed; it may be on its way already."""
        with self._changed:
            if self._forget(name) and name in self._queue:
                self._queue.remove(name)
            if self._posting == name:
                self._posting = ""

    def close(self, drain_s: float) -> tuple[int, int]:
        """Wait for the rest to be delivered, then stop; what is left is kept.

        Args:
            drain_s: Longest wait in seconds; 0 also ends the current POST.

        Returns:
            The number of files that are kept, and of those among them that were refused.
        """
        with self._changed:
            self._is_closing = self._is_hurried = True
            self._changed.notify_all()
        try:
            self._thread.join(drain_s)
        finally:
            with self._changed:
                self._is_stopped = self._is_hurried = True
                self._changed.notify_all()
            self._endpoint.abort()
            self._thread.join(_GRACE_S)
        with self._changed:
            return len(self._sizes), self._refused

    def _run(self) -> None:
        failures = 0
        while (name := self._next()) is not None:
            answer = self._post(name)
            if answer is None:
                continue
            with self._changed:
                if self._is_stopped:
                    return
                self._settle(name, answer)
            if answer.is_final:
                failures = 0
                continue
            pause_s = min(self._backoff_s * 2.0**failures, self._max_backoff_s)
            if answer.wait_s is not None:
                pause_s = min(max(pause_s, answer.wait_s), self._max_backoff_s)
            failures = min(failures + 1, 60)
            _log.info("webhook: %s; next attempt in %.1f s", answer.reason, pause_s)
            with self._changed:
                if self._changed.wait_for(lambda: self._is_hurried, pause_s):
                    failures, self._is_hurried = 0, False
        self._endpoint.close()

    def _next(self) -> str | None:
        """Return the next file once there is one; ``None`` at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_stopped or self._is_closing)
            if self._is_stopped or not self._queue:
                return None
            self._posting = self._queue.popleft()
            return self._posting

    def _post(self, name: str) -> Answer | None:
        try:
            with open_to_read(self._root / name) as body:
                return self._endpoint.post(body)
        except FileNotFoundError:
            self.withdraw(name)
        except (OSError, OutputError) as exc:  # of the file: those of the network are answers
            _log.warning("webhook: '%s' cannot be read, and is kept: %s", name, exc)
        return None

    def _forget(self, name: str) -> bool:
        size = self._sizes.pop(name, None)
        self._kept_bytes -= size or 0
        return size is not None

    def _settle(self, name: str, answer: Answer) -> None:
        """Remove a delivered file, or keep it, unless it was withdrawn meanwhile."""
        is_withdrawn, self._posting = self._posting != name, ""
        if is_withdrawn:
            return
        if answer.is_accepted:
            try:
                remove(self._root / name)
            except (OSError, OutputError) as exc:
                _log.warning("webhook: '%s' was delivered and cannot be removed: %s", name, exc)
            self._forget(name)
        elif answer.is_final:
            self._refused += 1
            _log.warning("webhook: '%s' was refused, and is kept: %s", name, answer.reason)
        else:
            self._queue.append(name)
