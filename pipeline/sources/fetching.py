"""Copies remote objects to temporary files, some of them before they are needed."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import lru_cache
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, NamedTuple

from pipeline.errors import DecodeError, printable
from pipeline.redaction import redacted_text
from pipeline.sources.decode.reading import check_bytes
from pipeline.sources.scratch import Scratch

_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
_THREADS = 8
_IDLE_S = 2.0
_UNKNOWN_BYTES = 4 << 20  # reserved for an object whose size is unknown
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class RemoteObject(NamedTuple):
    """An object in a remote store.

    Attributes:
        name: As the file system of fsspec names it.
        size: Its size in bytes; ``None`` if unknown.
        mtime_ns: Its modification time in nanoseconds since 1970; ``None`` if unknown.
        md5: The Base64 of its MD5, if the store says so.
    """

    name: str
    size: int | None
    mtime_ns: int | None
    md5: str | None = None


class Fetcher:
    """Fetches objects, with retries and a bound on what is fetched ahead.

    Can be used on several threads at once. Its own threads end when there is nothing to do.
    Pickled, it is its arguments: another process has one of its own, with its own credentials.

    Args:
        address: Where the objects are; fsspec chooses the file system by it.
        cache_bytes: Limit of the objects that are fetched ahead, in bytes. Objects that are needed
            at once come on top, one per thread that decodes.
        max_pixels: Objects that are too large for an image of so many pixels are refused.
        system: The file system; opened when it is needed if it is ``None``.
        sleep: Called with the seconds to wait before another attempt.
    """

    def __init__(
        self,
        address: str,
        cache_bytes: int,
        max_pixels: int,
        system: Any = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._address, self._system, self._sleep = address, system, sleep
        self._cache_bytes, self._max_pixels = cache_bytes, max_pixels
        self._scratch = Scratch()
        self._lock = Lock()
        self._ahead: dict[str, Future[Path]] = {}
        self._used = self._n_threads = 0
        self._queue: SimpleQueue[tuple[RemoteObject, Future[Path]]] = SimpleQueue()

    def __reduce__(self) -> Any:
        """Return how another process gets one.

        Raises:
            TypeError: The objects are in the memory of this process.
        """
        if self._address.startswith("memory:"):
            raise TypeError("memory:// exists in one process only")
        return _shared, (self._address, self._cache_bytes, self._max_pixels)

    def fetch_ahead(self, wanted: RemoteObject) -> None:
        """Start to fetch an object, if there is room for it."""
        reserved = _reserved(wanted)
        with self._lock:
            if wanted.name in self._ahead or self._used + reserved > self._cache_bytes:
                return
            future = self._ahead[wanted.name] = Future()
            self._used += reserved
            self._queue.put((wanted, future))
            if self._n_threads < _THREADS:
                self._n_threads += 1
                Thread(target=self._work, name="fetch", daemon=True).start()

    @contextmanager
    def file(self, wanted: RemoteObject) -> Iterator[Path]:
        """Yield the path of a copy, which is removed afterwards.

        Raises:
            DecodeError: The object cannot be fetched, or is too large.
        """
        with self._lock:
            future = self._ahead.pop(wanted.name, None)
        path = None
        try:
            path = self._fetched(wanted) if future is None else future.result()
            yield path
        finally:
            if path is not None:
                path.unlink(missing_ok=True)
            if future is not None:
                with self._lock:
                    self._used -= _reserved(wanted)

    def _work(self) -> None:
        while True:
            try:
                wanted, future = self._queue.get(timeout=_IDLE_S)
            except Empty:
                with self._lock:
                    if self._queue.empty():
                        self._n_threads -= 1
                        return
                continue
            try:
                future.set_result(self._fetched(wanted))
            except BaseException as exc:  # raised again where the object is needed
                future.set_exception(exc)

    def _fetched(self, wanted: RemoteObject) -> Path:
        check_bytes(wanted.size or 0, self._max_pixels)
        for attempt in count(1):
            path = self._scratch.new()
            try:
                self._copy(wanted, path)
                return path
            except BaseException as exc:
                path.unlink(missing_ok=True)
                if isinstance(exc, DecodeError) or not isinstance(exc, Exception):
                    raise
                if isinstance(exc, OSError) and exc.errno in _FULL:
                    raise DecodeError(
                        f"no space for a temporary copy in '{path.parent.parent}' (set TMPDIR, or "
                        "lower source.cache_mb)"
                    ) from exc
                is_final = isinstance(exc, (FileNotFoundError, PermissionError, ImportError))
                if is_final or attempt > len(_PAUSES_S):
                    raise DecodeError(f"cannot fetch it: {reason(exc)}", attempts=attempt) from exc
            self._sleep(_PAUSES_S[attempt - 1])
        raise AssertionError  # unreachable: count() is endless

    def _copy(self, wanted: RemoteObject, path: Path) -> None:
        from fsspec.callbacks import Callback

        limit, check = self._max_pixels, check_bytes

        class Limited(Callback):  # type: ignore[misc]
            def relative_update(self, inc: int = 1) -> None:
                self.value += inc
                check(self.value, limit)

        if self._system is None:
            from fsspec.core import url_to_fs

            self._system, _ = url_to_fs(self._address)
        self._system.get_file(wanted.name, str(path), callback=Limited())
        size = path.stat().st_size
        if wanted.size is not None and size != wanted.size:
            raise OSError(f"{size} of {wanted.size} bytes arrived")
        if wanted.md5 and wanted.md5 != _md5(path):
            raise OSError("its checksum differs from the store's")


@lru_cache(maxsize=4)  # one per input and process, however many of its assets arrive
def _shared(address: str, cache_bytes: int, max_pixels: int) -> Fetcher:
    return Fetcher(address, cache_bytes, max_pixels)


def reason(exc: Exception) -> str:
    """Return what went wrong, in words; the text may quote an address with its password."""
    if isinstance(exc, FileNotFoundError):
        return "no such object"
    if isinstance(exc, PermissionError):
        return "no permission; check the credentials in the environment"
    if isinstance(exc, OSError) and exc.errno and not exc.args[1:]:
        return os.strerror(exc.errno)
    return printable(redacted_text(" ".join(str(exc).split())))[:300] or type(exc).__name__


def _reserved(wanted: RemoteObject) -> int:
    return _UNKNOWN_BYTES if wanted.size is None else wanted.size


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return base64.b64encode(digest.digest()).decode()
