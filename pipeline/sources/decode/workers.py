"""Decoding in processes of its own, so that no file can end, stop or fill the run's process."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Lock

from pipeline.errors import DecodeError, PipelineError, PoisonError
from pipeline.sources.decode.reading import Reading, Version
from pipeline.sources.decode.worker import Lost, Worker
from pipeline.system.children import python_command

_MAX_PATH = 8192  # twice what Linux takes
_PAUSE_S = 0.2


class DecodingStopped(BaseException):
    """``close()`` was called while a file was decoded: the run ends, the file has not failed."""


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
            process are appended. By default this interpreter runs
            ``pipeline.sources.decode.decoder``.
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
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(n):
            self._idle.put(None)
        self._workers: set[Worker] = set()
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
        except Lost as exc:
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
        """End all workers at once, from any thread; whoever waits for one gets DecodingStopped."""
        self._closed.set()
        with self._lock:
            workers = list(self._workers)
        for worker in workers:
            worker.kill()
        self._starter.shutdown()
        with suppress(queue.Empty):
            while True:
                if (idle := self._idle.get_nowait()) is not None:
                    self._end(idle)
        self._idle.put(None)  # for one that still waits, and puts it back for the next

    def __call__(self, path: Path, *, exif: bool, max_pixels: int) -> Reading:
        """Return the picture.

        Raises:
            DecodeError: What the worker says of the file, as if it were decoded here.
            PoisonError: Its worker was lost at each try; the message says how at the last.
            DecodingStopped: The workers were ended meanwhile.
        """
        # What is cut off is too long for a file's name, and stays so.
        name = str(path.absolute())[:_MAX_PATH]
        request = {"path": name, "exif": exif, "max_pixels": max_pixels}
        version: Version | None = None
        for _ in range(self._tries):
            try:
                with self._worker() as worker:
                    return worker.read(request, self._timeout_s)
            except Lost as exc:
                lost, version = exc, exc.version or version
            if self._closed.is_set():
                raise DecodingStopped from lost
            if not lost.by_file:
                self._closed.wait(_PAUSE_S)
        error: DecodeError = PoisonError(str(lost), attempts=self._tries)
        if not lost.by_file:
            error = DecodeError(f"no process to decode it in: {lost}", attempts=self._tries)
        error.version = version
        raise error from lost

    @contextmanager
    def _worker(self) -> Iterator[Worker]:
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
            if worker is not None and self._closed.is_set():
                self._end(worker)
                worker = None
            self._idle.put(worker)

    def _started(self) -> Worker:
        try:
            worker = self._starter.submit(self._start).result()
        except RuntimeError as exc:  # it is shut down
            raise Lost("the run is over", by_file=False) from exc
        except OSError as exc:
            raise Lost((exc.strerror or str(exc)).lower(), by_file=False) from exc
        try:
            worker.wait_until_ready()
        except BaseException:
            self._end(worker)
            raise
        return worker

    def _start(self) -> Worker:
        command = self._command or python_command("pipeline.sources.decode.decoder")
        worker = Worker(command, self._memory_mb)
        with self._lock:
            self._workers = {w for w in self._workers if w.is_alive()} | {worker}
        if self._closed.is_set():  # and may not have seen it
            worker.kill()
        return worker

    def _end(self, worker: Worker) -> None:
        worker.kill()
        worker.connection.close()
