"""The main function of a decode worker process (child side): reads, decodes, answers.

A decoder that crashes, hangs or runs out of memory affects only this process.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import cv2

from pipeline.errors import DecodeError, PartialError
from pipeline.sources.decode import wire
from pipeline.sources.decode.frames import read_frames
from pipeline.sources.decode.image import NO_MEMORY, decode_image
from pipeline.sources.decode.options import FrameOptions
from pipeline.sources.decode.reading import Version, read_bytes
from pipeline.sources.part import Part
from pipeline.system.memory import keep_pages

_PR_SET_PDEATHSIG = 1
_MAX_FILES = 64
_SAY_EVERY_S = 1.0


def main(descriptor: int, memory_mb: int, parent: int) -> None:
    """Answer requests on a socket until its other end is closed.

    Args:
        descriptor: File descriptor of the socket.
        memory_mb: Address space that decoding may use, in addition to the current size, in MiB.
        parent: Process id of the parent.
    """
    # Ctrl-C and SIGTERM are handled by the parent, which then stops this process
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # a decoder that hangs does not see its socket closed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return
    keep_pages()
    cv2.setNumThreads(1)  # one process per image that is decoded at the same time
    _limit(memory_mb)
    with socket.socket(fileno=descriptor) as connection, suppress(EOFError, ConnectionError):
        wire.send(connection, {"ready": True})
        os.dup2(1, 2)  # to /dev/null: messages of a decoder may contain text from the file
        while True:
            _answer(connection, wire.receive(connection))


def _limit(memory_mb: int) -> None:
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, _MAX_FILES)
    with suppress(OSError):  # no /proc
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + (memory_mb << 20))


def _lower(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(kind, (limit, limit))


def _answer(connection: socket.socket, request: dict[str, Any]) -> None:
    try:
        if "frames" in request:
            _send_frames(connection, request)
            return
        part = Part(*request["part"]) if request["part"] else None
        path, max_pixels = Path(request["path"]), request["max_pixels"]
        data, version = read_bytes(path, max_pixels=max_pixels, part=part)
        wire.send(connection, {"version": version})
        image = decode_image(data, exif=request["exif"], max_pixels=max_pixels)
    except MemoryError:
        wire.send(connection, {"outgrown": True})
    except DecodeError as exc:
        if str(exc).startswith(NO_MEMORY):
            wire.send(connection, {"outgrown": True})
        else:
            answer = {"error": str(exc), "attempts": exc.attempts}
            wire.send(connection, answer | {"partial": isinstance(exc, PartialError)})
    else:
        wire.send(connection, {"size": image.shape[:2]})
        connection.sendall(image.data.cast("B"))


def _send_frames(connection: socket.socket, request: dict[str, Any]) -> None:
    """Send the frames of a file; the first ``skip`` were sent by a worker that was lost."""
    said_s = monotonic()

    def progress() -> None:
        nonlocal said_s
        if monotonic() - said_s >= _SAY_EVERY_S:
            said_s = monotonic()
            wire.send(connection, {"reading": True})

    # the GPU's libraries need more address space than a worker has
    options = replace(FrameOptions(**request["frames"]), hardware="none")
    send_version = partial(_send_version, connection)
    frames = read_frames(Path(request["path"]), options, send_version, progress)
    for number, decoded in enumerate(frames):
        if number < request["skip"]:
            progress()
            continue
        base = decoded.time_base
        time = {"pts": decoded.pts, "time_base": base and [base.numerator, base.denominator]}
        wire.send(connection, {"size": decoded.image.shape[:2], **time})
        connection.sendall(decoded.image.data.cast("B"))
    wire.send(connection, {"end": True})


def _send_version(connection: socket.socket, version: Version) -> None:
    wire.send(connection, {"version": version})


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
