"""Forwards the output of jobs line by line, each line with the number of its job."""

from __future__ import annotations

import os
import selectors
import sys
from typing import IO, TextIO

_SIZE = 65536


class Relay:
    """Reads the streams of processes."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._partial: dict[IO[bytes], bytes] = {}

    def add(self, stream: IO[bytes], prefix: str, *, is_error: bool) -> None:
        """Forward a stream to this process's standard output, or to its standard error."""
        self._selector.register(stream, selectors.EVENT_READ, (prefix, is_error))
        self._partial[stream] = b""

    def pump(self, timeout_s: float) -> bool:
        """Forward what there is; wait for it up to a time. Return whether there was anything."""
        events = self._selector.select(timeout_s)
        for key, _ in events:
            stream = key.fileobj
            assert not isinstance(stream, int)
            data = os.read(key.fd, _SIZE)
            self._forward(stream, data, *key.data)  # type: ignore[arg-type]
            if not data:
                self._selector.unregister(stream)
        return bool(events)

    def remove(self, stream: IO[bytes]) -> None:
        """Forward the rest of a stream whose process has ended."""
        if stream in self._selector.get_map():
            prefix, is_error = self._selector.get_key(stream).data
            self._selector.unregister(stream)
            os.set_blocking(stream.fileno(), False)  # something may still hold its other end
            try:
                while data := os.read(stream.fileno(), _SIZE):
                    self._forward(stream, data, prefix, is_error)
            except BlockingIOError:
                pass
            self._forward(stream, b"", prefix, is_error)
        self._partial.pop(stream, None)

    def close(self) -> None:
        """Release the selector."""
        self._selector.close()

    def _forward(self, stream: IO[bytes], data: bytes, prefix: str, is_error: bool) -> None:
        *lines, rest = (self._partial[stream] + data).split(b"\n")
        if not data or len(rest) > _SIZE:  # at the end, a line without line break
            lines, rest = [*lines, *filter(None, [rest])], b""
        self._partial[stream] = rest
        # of a progress bar, which overwrites itself, only the last state is a line
        shown = (line.rstrip(b"\r").rpartition(b"\r")[2] for line in lines)
        text = b"".join(prefix.encode() + line + b"\n" for line in shown)
        if text:
            _write(sys.stderr if is_error else sys.stdout, text)


def _write(stream: TextIO, text: bytes) -> None:
    buffer = getattr(stream, "buffer", None)
    if buffer is None:  # a replacement, such as in tests
        stream.write(text.decode(errors="backslashreplace"))
    else:
        stream.flush()
        buffer.write(text)
    stream.flush()
