"""The state of a run for monitoring: ``status.json``, ``health`` and metrics."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import ConfigError, OutputError
from pipeline.redaction import safe_text
from pipeline.system.descriptors import open_directory, remove
from pipeline.system.files import asset_keys, write_whole

State = Literal["loading", "running", "idle", "draining", "finished", "stopped"]

_FILES = ("status.json", "health", "metrics.prom")
_WINDOW_S = 60.0
_MIN_SAMPLES = 10  # so that there is a rate even if each input takes a minute
_REFRESH_S = 5.0  # unchanged files are rewritten: their age shows that the run is alive
_HUNG_DISK_S = 5.0
_log = logging.getLogger("d2run")


def _now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(eq=False)
class Status:
    """Keeps the monitoring files up to date while the block runs.

    A separate thread writes them, so no method waits for a disk: ``status.json`` always, ``health``
    once ``health()`` was called, ``metrics.prom`` on request. Each is written atomically, at most
    once per ``every_s``, at least every 10 s, and once more when the block ends. They are not
    results: a failed write is logged once, and the run continues. All methods can be called from
    any thread and from signal handlers.

    Attributes:
        directory: Directory of the files; it must exist.
        total: Number of inputs, if known; needed for the time left.
        metrics: Whether to write ``metrics.prom``, for node_exporter's textfile collector.
        metrics_port: Serve the metrics on this port of 127.0.0.1, 0 for any free one; ``None``
            opens no socket.
        every_s: Seconds between writes.
        clock: A monotonic clock in seconds.
        state: The current activity of the run.
        pending: Files that are not complete yet or wait to be processed.
        counts: Inputs by outcome.
        seconds: Seconds by step; the steps overlap.
        instances: Instances written.
        healthy: Whether the run can process inputs; ``None`` until ``health()`` is called.
        started: When this object was created.
        last_commit: When the last outcome was committed.
        lock: Held while these change.

    Raises:
        ConfigError: On entering, if the port is not valid or not free.
    """

    directory: Path
    total: int | None = None
    metrics: bool = False
    metrics_port: int | None = None
    every_s: float = 1.0
    clock: Callable[[], float] = time.monotonic
    state: State = field(default="loading", init=False)
    pending: int | None = field(default=None, init=False)
    counts: Counter[str] = field(default_factory=Counter, init=False)
    seconds: dict[str, float] = field(default_factory=dict, init=False)
    instances: int = field(default=0, init=False)
    healthy: bool | None = field(default=None, init=False)
    started: datetime = field(default_factory=_now, init=False)
    last_commit: datetime | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._current: str | None = None
        self._last: str | None = None
        self._reason = ""
        self._samples: deque[tuple[float, int]] = deque()  # time, inputs until then
        self._processed = 0
        self._changed = self._warned = False
        self._stopped = threading.Event()
        self.lock = threading.RLock()  # a signal handler may interrupt its own thread's call
        self._thread = threading.Thread(target=self._keep_writing, name="status", daemon=True)
        self._stack = ExitStack()
        self._render: Callable[[], bytes] | None = None

    def __enter__(self) -> Status:
        """Open the port if there is one, write the first state, start the thread."""
        if self.metrics or self.metrics_port is not None:
            from runners.reporting import metrics

            self._render = metrics.renderer(self)
            if self.metrics_port is not None:
                served = metrics.served(self, self.metrics_port)
                self.metrics_port = self._stack.enter_context(served)
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: object, trace: object) -> None:
        """Close the port and write the last state; after a ConfigError, remove the files."""
        self._stack.close()
        with self.lock:
            self.state = "stopped" if kind else "finished"
            self._current = None
            if self.healthy is not None:
                why = f"{kind.__name__}: {exc}".removesuffix(": ") if kind else "the run ended"
                self.health(False, f"not running ({why})")
        self._stopped.set()
        self._thread.join(_HUNG_DISK_S)
        if self._thread.is_alive():
            return
        if kind and issubclass(kind, ConfigError):  # nothing was started
            with suppress(OSError, OutputError):
                for name in _FILES:
                    remove(self.directory / name)
        else:
            self._write()

    def advance(
        self,
        outcome: str,
        asset_id: str,
        *,
        seconds: Mapping[str, float] | None = None,
        instances: int = 0,
    ) -> None:
        """Count an input whose outcome has been committed.

        Args:
            outcome: ``done`` or ``failed``.
            asset_id: The input.
            seconds: Seconds of the asset by step.
            instances: Number of instances written for it.
        """
        with self.lock:
            self._start_counting()
            self.counts[outcome] += 1
            self._processed += 1
            now = self.clock()
            if now - self._samples[-1][0] >= 1:
                self._samples.append((now, self._processed))
            for step, value in (seconds or {}).items():
                self.seconds[step] = self.seconds.get(step, 0.0) + value
            self.instances += instances
            self._last = asset_id
            if self._current == asset_id:
                self._current = None
            self.last_commit = _now()
            self._changed = True

    def update(
        self,
        *,
        state: State | None = None,
        total: int | None = None,
        pending: int | None = None,
        earlier: int | None = None,
        current: str | None = None,
    ) -> None:
        """Change what is not ``None``.

        Args:
            state: The rate is measured from ``running`` on.
            total: Number of inputs.
            pending: Files that are not complete yet or wait to be processed.
            earlier: Number of inputs that need no work in this run.
            current: Id of the input that is being processed.
        """
        with self.lock:
            if state == "running":
                self._start_counting()
            self.state = state or self.state
            self.total = self.total if total is None else total
            self.pending = self.pending if pending is None else pending
            if earlier is not None:
                self.counts["earlier"] = earlier
            self._current = self._current if current is None else current
            self._changed = True

    def health(self, ok: bool, reason: str = "") -> None:
        """Set whether the run can process inputs, and why not, in one line."""
        with self.lock:
            self._changed |= (self.healthy, self._reason) != (ok, reason)
            self.healthy, self._reason = ok, reason

    def snapshot(self) -> dict[str, Any]:
        """Return the content of ``status.json``."""
        with self.lock:
            rate = self._per_s()
            left = None if self.total is None else max(self.total - self.counts.total(), 0)
            return {
                "state": self.state,
                "health": self._health_text(),
                "pid": os.getpid(),
                "started": _iso(self.started),
                "updated": _iso(_now()),
                "last_commit": _iso(self.last_commit),
                "counts": {"done": 0, "failed": 0, **self.counts},
                "total": self.total,
                "pending": self.pending,
                "inputs_per_s": None if rate is None else round(rate, 4),
                "eta_s": round(left / rate, 1) if rate and left is not None else None,
                "current": None if self._current is None else asset_keys(self._current),
                "last": None if self._last is None else asset_keys(self._last),
            }

    def _start_counting(self) -> None:
        if not self._samples:
            self._samples.append((self.clock(), self._processed))
            self.state = "running"

    def _per_s(self) -> float | None:
        """Return inputs per second over the last minute, or over the last ten inputs if longer."""
        samples, now = self._samples, self.clock()
        while len(samples) > _MIN_SAMPLES and now - samples[0][0] > _WINDOW_S:
            samples.popleft()
        if self._processed == 0 or now <= samples[0][0]:
            return None
        return (self._processed - samples[0][1]) / (now - samples[0][0])

    def _health_text(self) -> str | None:
        if self.healthy is None:
            return None
        return "ok" if self.healthy else f"unhealthy: {safe_text(self._reason)}"

    def _keep_writing(self) -> None:
        written = self.clock()
        while not self._stopped.wait(self.every_s):
            if self._changed or self.clock() - written >= _REFRESH_S:
                written = self.clock()
                self._write()

    def _write(self) -> None:
        self._changed = False
        content = self.snapshot()
        files: dict[str, str | bytes] = {"status.json": json.dumps(content, indent=1) + "\n"}
        if content["health"] is not None:
            files["health"] = f"{content['health']}\n{content['updated']}\n"
        if self.metrics and self._render:
            files["metrics.prom"] = self._render()
        try:
            os.close(open_directory(self.directory))  # a removed directory is not created again
            for name, data in files.items():
                write_whole(self.directory / name, data, durable=False)
            self._warned = False
        except (OSError, OutputError) as exc:
            if not self._warned:
                _log.warning("cannot write %s: %s", self.directory / "status.json", exc)
            self._warned = self._changed = True


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="milliseconds")
