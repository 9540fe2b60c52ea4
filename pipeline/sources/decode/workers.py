"""A pool of decode worker processes (parent side), so that no file can crash or hang the run."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from threading import Event, Lock

from pipeline.errors import DecodeError, PipelineError, PoisonError
from pipeline.sources.decode.frames import OnVersion
from pipeline.sources.decode.options import Decoded, FrameOptions
from pipeline.sources.decode.reading import Reading, Version
from pipeline.sources.decode.worker import Lost, Worker
from pipeline.sources.part import Part
from pipeline.system.children import python_command
from pipeline.system.os_errors import describe_os_error

_MAX_PATH = 8192  # twice the limit of Linux
_PAUSE_S = 0.2


class DecodingStopped(BaseException):
    """``close()`` was called while a file was decoded: the run stops, the file has not failed."""


class DecodeWorkers:
    """A ``Reader`` that reads and decodes each file in one of several worker processes.

    If a worker dies, takes too long or needs too much memory, its file is tried again with a new
    worker. Workers are started when they are first needed, the first one on entering; leaving
    stops all. A compromised worker can return wrong pixels, but cannot make this process run code:
    it sends JSON and pixels, which are checked. Can be called on several threads at once.

    Args:
        n: Number of worker processes, so of files that are decoded at the same time.
        memory_mb: Memory that decoding one file may use, in MiB, in addition to the interpreter's.
        timeout_s: Seconds that one attempt may take.
        tries: Number of attempts for a file that its worker does not survive.
        command: The command that starts a worker. The socket's descriptor, ``memory_mb`` and the
            id of this process are appended. By default, this interpreter runs
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
        # one thread starts all workers, because Linux kills a worker when its thread ends
        self._starter = ThreadPoolExecutor(1, "start-decoder")

    def __enter__(self) -> DecodeWorkers:
        """Start the first worker.

        Raises:
            PipelineError: The worker does not start.
        """
        try:
            with self._worker():
                pass
        except Lost as exc:
            self.close()
            raise PipelineError(
                f"cannot start a process to decode in: {exc} (or set decode.isolation=none)"
            ) from exc
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop all workers."""
        self.close()

    def close(self) -> None:
        """Stop all workers immediately. Calls on other threads get DecodingStopped."""
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
        self._idle.put(None)  # for a thread that still waits, which returns it for the next

    def __call__(
        self, path: Path, *, exif: bool, max_pixels: int, part: Part | None = None
    ) -> Reading:
        """Return the image in a file, or in a part of it.

        Raises:
            DecodeError: The file cannot be decoded; the same error as without workers.
            PoisonError: The worker was lost at each attempt; the message is about the last.
            DecodingStopped: The workers were stopped.
        """
        # a path that is cut off here is still too long for a file
        name = str(path.absolute())[:_MAX_PATH]
        place = None if part is None else astuple(part)
        request = {"path": name, "exif": exif, "max_pixels": max_pixels, "part": place}
        version: Version | None = None
        for _ in range(self._tries):
            try:
                with self._worker() as worker:
                    return worker.read(request, self._timeout_s)
            except Lost as exc:
                lost, version = exc, exc.version or version
            self._pause(lost)
        raise self._failure(lost, version) from lost

    def frames(self, path: Path, options: FrameOptions, on_version: OnVersion) -> Iterator[Decoded]:
        """Yield the frames of a file, few of which are in memory at a time.

        If the worker is lost, another one continues after the last frame.

        Raises:
            DecodeError: See ``__call__`` and ``read_frames``.
            PoisonError: See ``__call__``.
            DecodingStopped: See ``__call__``.
        """
        request = {"path": str(path.absolute())[:_MAX_PATH], "frames": options.as_json()}
        n_frames = 0
        versions: list[Version] = []

        def note(version: Version) -> None:
            if versions and versions != [version]:
                raise DecodeError("changed while it was read")
            if not versions:
                versions.append(version)
                on_version(version)

        for _ in range(self._tries):
            try:
                with self._worker() as worker:
                    rest = worker.frames(request | {"skip": n_frames}, self._timeout_s, note)
                    for decoded in rest:
                        n_frames += 1
                        yield decoded
                        del decoded  # the caller decides how long the pixels live
                    return
            except Lost as exc:
                lost = exc
            self._pause(lost)
        raise self._failure(lost, next(iter(versions), None)) from lost

    def _pause(self, lost: Lost) -> None:
        if self._closed.is_set():
            raise DecodingStopped from lost
        if not lost.by_file:
            self._closed.wait(_PAUSE_S)

    def _failure(self, lost: Lost, version: Version | None) -> DecodeError:
        error: DecodeError = PoisonError(str(lost), attempts=self._tries)
        if not lost.by_file:
            error = DecodeError(f"no process to decode it in: {lost}", attempts=self._tries)
        error.version = version
        return error

    @contextmanager
    def _worker(self) -> Iterator[Worker]:
        """Yield an idle or a new worker, which becomes idle again afterwards if it still works."""
        worker = self._idle.get()
        try:
            if worker is not None and not worker.is_alive():  # killed from outside
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
        except RuntimeError as exc:  # the executor is shut down
            raise Lost("the run has ended", by_file=False) from exc
        except OSError as exc:
            raise Lost(describe_os_error(exc), by_file=False) from exc
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
        if self._closed.is_set():  # close() may have missed this worker
            worker.kill()
        return worker

    def _end(self, worker: Worker) -> None:
        worker.kill()
        worker.connection.close()
