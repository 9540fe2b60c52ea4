"""One worker process that decodes, as it looks from the run: started, asked, ended, collected."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DecodeError
from pipeline.sources.decode import wire
from pipeline.sources.decode.reading import Reading, Version

_START_S = 60.0  # to import NumPy, OpenCV and Pillow from a slow disk
_EXIT_S = 1.0  # from the end of its socket to its own
_END_S = 5.0  # from SIGKILL to the end; a process that waits for a dead NFS server has none
_MAX_TEXT = 1000
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Lost(Exception):
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


class Worker:
    """A worker process and the socket to it.

    Args:
        command: Starts it; the socket's descriptor, ``memory_mb`` and the id of this process are
            appended.
        memory_mb: Memory that decoding one file may take, in MiB.

    Raises:
        OSError: No process can be started.
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
                    # whatever BLAS there is would take address space for each core
                    env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                    start_new_session=True,  # out of reach of the terminal's Ctrl-C
                )
        except BaseException:
            self.connection.close()
            raise

    def wait_until_ready(self) -> None:
        """Wait until it has imported what it needs.

        Raises:
            Lost: It does not come to that.
        """
        try:
            wire.receive(self.connection, time.monotonic() + _START_S)
        except TimeoutError as exc:
            raise Lost(f"it was not ready after {_START_S:g} s", by_file=False) from exc
        except (EOFError, OSError, ValueError) as exc:
            raise Lost(f"it {self._ended()}", by_file=False) from exc

    def read(self, request: dict[str, Any], timeout_s: float) -> Reading:
        """Have it read and decode a file.

        Args:
            request: ``path``, ``exif`` and ``max_pixels``.
            timeout_s: Seconds until the last pixel must be here.

        Raises:
            DecodeError: What it says of the file; it can be asked again.
            Lost: It died, is late, ran out of memory or made no sense; it must be killed.
        """
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
                raise Lost(needed, version=version)
            if "error" in answer:
                raise _error(answer, version)
            if version is None:
                raise ValueError("pixels of an unknown file")
            image = _blank(answer["size"], request["max_pixels"])
            wire.fill(self.connection, image.data.cast("B"), deadline)
            return Reading(image, *version)
        except TimeoutError as exc:
            late = f"took longer than {timeout_s:g} s (raise decode.timeout_s)"
            raise Lost(late, version=version) from exc
        except (EOFError, OSError) as exc:
            raise Lost(f"its decoder {self._ended()}", version=version) from exc
        except (KeyError, TypeError, ValueError) as exc:
            raise Lost("its decoder's answer made no sense", version=version) from exc

    def is_alive(self) -> bool:
        """Return whether it runs, and collect it if it does not."""
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
