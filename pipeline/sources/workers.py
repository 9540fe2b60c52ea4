"""Decoding in processes of its own, so that no file can end, stop or fill the run's process."""

from __future__ import annotations

import json
import os
import queue
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DecodeError, PipelineError, PoisonError
from pipeline.sources import wire
from pipeline.sources.reading import Reading, Version

# With this process's own sys.path: run.py may have been started from anywhere.
_MAIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from pipeline.sources.decoder import main; main(*map(int, sys.argv[2:]))"
)
_START_S = 60.0  # to import NumPy, OpenCV and Pillow from a slow disk
_END_S = 5.0  # from SIGKILL to the end; a process that waits for a dead NFS server has none
_EXIT_S = 1.0  # from the end of its socket to its own
_PAUSE_S = 0.2
_MAX_PATH = 8192  # twice what Linux takes
_MAX_TEXT = 1000
_SHA256 = re.compile(r"[0-9a-f]{64}")


class DecodeWorkers:
    """A ``Reader`` that has each file read and decoded by one of several worker processes.

    A file whose worker dies, takes too long or wants too much memory is tried again with a new
    one. Workers are started when they are first needed, the first one on entering; leaving ends
    them all. A worker can say what is not so of a picture, but cannot make this process run code:
    what it sends is JSON and pixels, and checked. Safe to call on several threads at once.

    Args:
        n: Worker processes, and so files that are decoded at the same time.
        memory_mb: Memory that decoding one file may take, in MiB, beside the interpreter's own.
        timeout_s: Seconds that one try may take.
        tries: How often a file is tried that its worker does not survive.
        command: Starts a worker; the socket's descriptor, ``memory_mb`` and the id of this
            process are appended. By default this interpreter with ``pipeline.sources.decoder``.
    """

    def __init__(
        self,
        n: int,
        *,
        memory_mb: int,
        timeout_s: float,
        tries: int = 3,
        command: Sequence[str] | None = None,
    ) -> None:
        self._memory_mb, self._timeout_s, self._tries = memory_mb, timeout_s, tries
        self._command = command
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(n):
            self._idle.put(None)
        self._workers: set[_Worker] = set()
        self._lock = Lock()
        self._closed = Event()
        # Linux ends a worker with the thread that started it, so that must be one that stays.
        self._starter = ThreadPoolExecutor(1, "start-decoder")

    def __enter__(self) -> DecodeWorkers:
        """Start the first worker.

        Raises:
            PipelineError: It does not start.
        """
        try:
            with self._worker():
                pass
        except _Lost as exc:
            self.close()
            raise PipelineError(
                f"cannot start a process to decode in: {exc} (decode.isolation=none does without)"
            ) from exc
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End all workers."""
        self.close()

    def close(self) -> None:
        """End all workers at once, from any thread; whoever waits for one gets a DecodeError."""
        self._closed.set()
        with self._lock:
            workers = list(self._workers)
        for worker in workers:
            worker.kill()
        self._starter.shutdown()
        with suppress(queue.Empty):
            while True:
                if (worker_or_none := self._idle.get_nowait()) is not None:
                    self._end(worker_or_none)
        self._idle.put(None)  # for one that still waits, and puts it back for the next

    def __call__(self, path: Path, *, exif: bool, max_pixels: int) -> Reading:
        """Return the picture.

        Raises:
            DecodeError: What the worker says of the file, as if it were decoded here.
            PoisonError: Its worker was lost at each try; the message says how at the last.
        """
        # What is cut off is too long for a file's name, and stays so.
        name = str(path.absolute())[:_MAX_PATH]
        request = {"path": name, "exif": exif, "max_pixels": max_pixels}
        version: Version | None = None
        for attempt in range(1, self._tries + 1):
            try:
                with self._worker() as worker:
                    return worker.read(request, self._timeout_s)
            except _Lost as exc:
                lost, version = exc, exc.version or version
            if self._closed.is_set():
                raise DecodeError("decoding was stopped", attempts=attempt) from lost
            if not lost.by_file:
                self._closed.wait(_PAUSE_S)
        error: DecodeError = PoisonError(str(lost), attempts=self._tries)
        if not lost.by_file:
            error = DecodeError(f"no process to decode it in: {lost}", attempts=self._tries)
        error.version = version
        raise error from lost

    @contextmanager
    def _worker(self) -> Iterator[_Worker]:
        """Lend an idle worker, or a new one; it is kept if it still does what it is told."""
        worker = self._idle.get()
        try:
            if worker is not None and not worker.is_alive():  # ended by somebody else
                self._end(worker)
                worker = None
            if worker is None:
                worker = self._started()
            try:
                yield worker
            except DecodeError:
                raise
            except BaseException:  # lost, or interrupted in the middle of an answer
                self._end(worker)
                worker = None
                raise
        finally:
            self._idle.put(worker)

    def _started(self) -> _Worker:
        try:
            return self._starter.submit(self._start).result()
        except RuntimeError as exc:  # it is shut down
            raise _Lost("the run is over", by_file=False) from exc

    def _start(self) -> _Worker:
        path = json.dumps([entry for entry in sys.path if isinstance(entry, str)])
        command = self._command or [sys.executable, "-c", _MAIN, path]
        try:
            worker = _Worker(command, self._memory_mb)
        except OSError as exc:
            raise _Lost((exc.strerror or str(exc)).lower(), by_file=False) from exc
        with self._lock:
            self._workers = {w for w in self._workers if w.is_alive()}
            self._workers.add(worker)
        try:
            if self._closed.is_set():
                raise _Lost("the run is over", by_file=False)
            worker.wait_until_ready()
        except BaseException:
            self._end(worker)
            raise
        return worker

    def _end(self, worker: _Worker) -> None:
        worker.kill()
        worker.connection.close()


class _Lost(Exception):
    """A worker is of no more use.

    Attributes:
        by_file: Whether it was working on the file.
        version: What it had read by then.
    """

    def __init__(
        self, reason: str, *, by_file: bool = True, version: Version | None = None
    ) -> None:
        self.by_file, self.version = by_file, version
        super().__init__(reason)


class _Worker:
    """A worker process and the socket to it."""

    def __init__(self, command: Sequence[str], memory_mb: int) -> None:
        self._memory_mb = memory_mb
        self.connection, theirs = socket.socketpair()
        descriptor = theirs.fileno()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, str(descriptor), str(memory_mb), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[descriptor],
                    # whatever BLAS there is would take address space for each core
                    env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                    start_new_session=True,  # out of reach of the terminal's Ctrl-C
                )
        except BaseException:
            self.connection.close()
            raise

    def wait_until_ready(self) -> None:
        try:
            wire.receive(self.connection, time.monotonic() + _START_S)
        except TimeoutError as exc:
            raise _Lost(f"it was not ready after {_START_S:g} s", by_file=False) from exc
        except (EOFError, OSError, ValueError) as exc:
            raise _Lost(f"it {self._ended()}", by_file=False) from exc

    def read(self, request: dict[str, Any], timeout_s: float) -> Reading:
        deadline = time.monotonic() + timeout_s
        version: Version | None = None
        try:
            wire.send(self.connection, request, deadline)
            answer = wire.receive(self.connection, deadline)
            if "version" in answer:
                version = _version(answer["version"])
                answer = wire.receive(self.connection, deadline)
            if "outgrown" in answer:
                needed = f"needed more than {self._memory_mb} MB (raise decode.memory_mb)"
                raise _Lost(needed, version=version)
            if "error" in answer:
                raise _error(answer, version)
            if version is None:
                raise ValueError("pixels of an unknown file")
            image = _blank(answer["size"], request["max_pixels"])
            wire.fill(self.connection, image.data.cast("B"), deadline)
            return Reading(image, *version)
        except TimeoutError as exc:
            late = f"took longer than {timeout_s:g} s (raise decode.timeout_s)"
            raise _Lost(late, version=version) from exc
        except (EOFError, OSError) as exc:
            raise _Lost(f"its decoder {self._ended()}", version=version) from exc
        except (KeyError, TypeError, ValueError) as exc:
            raise _Lost("its decoder's answer made no sense", version=version) from exc

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """End the process and collect it; harmless when it has ended, and on any thread."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # collected when the next one is started
            self._process.wait(_END_S)

    def _ended(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            status = self._process.wait(_EXIT_S)
            if status < 0:
                return f"was killed by signal {-status}"
            return f"ended with status {status}"
        return "closed its end"


def _version(answer: Any) -> Version:
    size, mtime_ns, sha256 = answer
    if not (type(size) is int and type(mtime_ns) is int and 0 <= size < 1 << 63):
        raise ValueError("size or time of a file that cannot be")
    if not (isinstance(sha256, str) and _SHA256.fullmatch(sha256) and abs(mtime_ns) < 1 << 63):
        raise ValueError("digest or time of a file that cannot be")
    return size, mtime_ns, sha256


def _error(answer: dict[str, Any], version: Version | None) -> DecodeError:
    text, attempts = answer["error"], answer["attempts"]
    if not (isinstance(text, str) and type(attempts) is int and 1 <= attempts <= 100):
        raise ValueError("error that cannot be")
    error = DecodeError(text[:_MAX_TEXT], attempts=attempts)
    error.version = version
    return error


def _blank(size: Any, max_pixels: int) -> NDArray[np.uint8]:
    height, width = size
    if not (type(height) is int and type(width) is int and height > 0 and width > 0):
        raise ValueError("picture without pixels")
    if height * width > max_pixels:
        raise ValueError("picture over the limit")
    return np.empty((height, width, 3), np.uint8)
