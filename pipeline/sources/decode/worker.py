"""A single decode worker (parent side): starts the process, sends requests, stops it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DecodeError, PartialError
from pipeline.sources.decode import wire
from pipeline.sources.decode.frames import OnVersion
from pipeline.sources.decode.options import Decoded
from pipeline.sources.decode.reading import Reading, Version

_START_S = 60.0  # to import NumPy, OpenCV and Pillow from a slow disk
_EXIT_S = 1.0  # from closing the socket to the exit of the process
_END_S = 5.0  # from SIGKILL to the exit; a process that waits for a dead NFS server never exits
_MAX_TEXT = 1000
# what a connection raises, and what checks of an answer raise
_LOST = (EOFError, OSError, KeyError, TypeError, ValueError)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Lost(Exception):
    """A worker can no longer be used.

    Attributes:
        by_file: Whether the worker was processing the file.
        version: The version of the file that the worker had read, if any.
    """

    def __init__(
        self, reason: str, *, by_file: bool = True, version: Version | None = None
    ) -> None:
        self.by_file, self.version = by_file, version
        super().__init__(reason)


class Worker:
    """A worker process and the socket to it.

    Args:
        command: The command that starts the process. The socket's descriptor, ``memory_mb``
            and the id of this process are appended.
        memory_mb: Memory that decoding one file may use, in MiB.

    Raises:
        OSError: The process cannot be started.
    """

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
                    # BLAS would reserve address space for each core
                    env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                    start_new_session=True,  # out of reach of the terminal's Ctrl-C
                )
        except BaseException:
            self.connection.close()
            raise

    def wait_until_ready(self) -> None:
        """Wait until it has imported its modules.

        Raises:
            Lost: It ended, or takes too long.
        """
        try:
            wire.receive(self.connection, time.monotonic() + _START_S)
        except TimeoutError as exc:
            raise Lost(f"it was not ready after {_START_S:g} s", by_file=False) from exc
        except (EOFError, OSError, ValueError) as exc:
            raise Lost(f"it {self._ended()}", by_file=False) from exc

    def read(self, request: dict[str, Any], timeout_s: float) -> Reading:
        """Read and decode a file in the process.

        Args:
            request: ``path``, ``exif``, ``max_pixels`` and ``part``.
            timeout_s: Seconds until the last pixel must have arrived.

        Raises:
            DecodeError: The file cannot be decoded; the worker can be used again.
            Lost: The worker died, is late, ran out of memory or sent an invalid answer; it must be
                killed.
        """
        deadline = time.monotonic() + timeout_s
        version: Version | None = None
        try:
            wire.send(self.connection, request, deadline)
            answer = wire.receive(self.connection, deadline)
            if "version" in answer:
                version = _version(answer["version"])
                answer = wire.receive(self.connection, deadline)
            self._raise_failure(answer, version)
            if version is None:
                raise ValueError("pixels without a version")
            image = self._image(answer, request["max_pixels"], deadline)
            return Reading(image, *version)
        except _LOST as exc:
            raise self._lost(exc, version, timeout_s) from exc

    def frames(
        self, request: dict[str, Any], timeout_s: float, on_version: OnVersion
    ) -> Iterator[Decoded]:
        """Read a file in the process, and yield its frames as they arrive.

        Args:
            request: ``path``, ``frames`` (the options) and ``skip``, a number of frames.
            timeout_s: Seconds until the next frame must have arrived.
            on_version: Called with the version of the file, before the first frame.

        Raises:
            DecodeError: See ``read``; a PartialError after the last frame.
            Lost: See ``read``.
        """
        version: Version | None = None
        connection, max_pixels = self.connection, request["frames"]["max_pixels"]
        try:
            wire.send(connection, request, time.monotonic() + timeout_s)
            while True:
                deadline = time.monotonic() + timeout_s
                answer = wire.receive(connection, deadline)
                self._raise_failure(answer, version)
                if "version" in answer:
                    version = _version(answer["version"])
                    on_version(version)
                elif "size" in answer and version is not None:
                    time_of = _time(answer)  # before the pixels, which may never arrive
                    yield Decoded(self._image(answer, max_pixels, deadline), *time_of)
                elif "end" in answer:
                    return
                elif "reading" not in answer:
                    raise ValueError("impossible answer")
        except _LOST as exc:
            raise self._lost(exc, version, timeout_s) from exc

    def _raise_failure(self, answer: dict[str, Any], version: Version | None) -> None:
        if "outgrown" in answer:
            needed = f"needed more than {self._memory_mb} MB (raise decode.memory_mb)"
            raise Lost(needed, version=version)
        if "error" in answer:
            raise _error(answer, version)

    def _image(self, answer: dict[str, Any], max_pixels: int, deadline: float) -> NDArray[np.uint8]:
        image = _blank(answer["size"], max_pixels)
        wire.fill(self.connection, image.data.cast("B"), deadline)
        return image

    def _lost(self, exc: Exception, version: Version | None, timeout_s: float) -> Lost:
        if isinstance(exc, TimeoutError):
            reason = f"took longer than {timeout_s:g} s (raise decode.timeout_s)"
        elif isinstance(exc, (EOFError, OSError)):
            reason = f"its decoder {self._ended()}"
        else:
            reason = "its decoder sent an invalid answer"
        return Lost(reason, version=version)

    def is_alive(self) -> bool:
        """Return whether the process is running; reap it if not."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill and reap the process. Can be repeated, and called on any thread."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # reaped when the next one is started
            self._process.wait(_END_S)

    def _ended(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            status = self._process.wait(_EXIT_S)
            if status < 0:
                return f"was killed by signal {-status}"
            return f"ended with status {status}"
        return "closed its connection"


def _version(answer: Any) -> Version:
    size, mtime_ns, sha256 = answer
    if not (type(size) is int and type(mtime_ns) is int and 0 <= size < 1 << 63):
        raise ValueError("impossible size or time of a file")
    if not (isinstance(sha256, str) and _SHA256.fullmatch(sha256) and abs(mtime_ns) < 1 << 63):
        raise ValueError("impossible digest or time of a file")
    return size, mtime_ns, sha256


def _error(answer: dict[str, Any], version: Version | None) -> DecodeError:
    text, attempts = answer["error"], answer["attempts"]
    if not (isinstance(text, str) and type(attempts) is int and 1 <= attempts <= 100):
        raise ValueError("impossible error")
    kind = PartialError if answer.get("partial") is True else DecodeError
    error = kind(text[:_MAX_TEXT], attempts=attempts)
    error.version = version
    return error


def _time(answer: dict[str, Any]) -> tuple[int | None, Fraction | None]:
    pts, base = answer["pts"], answer["time_base"]
    if pts is None and base is None:
        return None, None
    numerator, denominator = base
    if not all(type(each) is int and abs(each) < 1 << 63 for each in (pts, numerator, denominator)):
        raise ValueError("impossible timestamp")
    if numerator < 1 or denominator < 1:
        raise ValueError("impossible time base")
    return pts, Fraction(numerator, denominator)


def _blank(size: Any, max_pixels: int) -> NDArray[np.uint8]:
    height, width = size
    if not (type(height) is int and type(width) is int and height > 0 and width > 0):
        raise ValueError("image without pixels")
    if height * width > max_pixels:
        raise ValueError("image over the limit")
    return np.empty((height, width, 3), np.uint8)
