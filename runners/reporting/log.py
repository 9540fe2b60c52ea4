"""``run.log``: warnings, tracebacks and messages of libraries."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from itertools import pairwise
from logging.handlers import RotatingFileHandler
from pathlib import Path

from pipeline.errors import ConfigError, OutputError
from pipeline.redaction import safe_text
from pipeline.system.descriptors import open_file, rename, status_of

_MAX_BYTES = 64 << 20
_MAX_FILES = 5
_MAX_CHARACTERS = 4096
_log = logging.getLogger("d2run")


class Log(RotatingFileHandler):
    """The log file; ``start_new`` renames it and starts another.

    Args:
        path: The file.

    Raises:
        OutputError: It cannot be written or is not a regular file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path  # baseFilename resolves "..", and would not match the held directory
        try:
            # delay: otherwise the constructor opens the file before it is checked
            super().__init__(
                path,
                maxBytes=_MAX_BYTES,
                backupCount=_MAX_FILES,
                encoding="utf-8",
                errors="backslashreplace",
                delay=True,
            )
            self.stream = self._open()
        except OSError as exc:
            raise OutputError(f"cannot write the output {path}: {exc.strerror}") from exc
        self.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        descriptor = open_file(self._path, flags)
        return open(descriptor, "a", encoding=self.encoding, errors=self.errors)  # noqa: PTH123

    def doRollover(self) -> None:
        """Rename the files, each to the next number, and start a new one.

        If another program has moved the file away, only start a new one.
        """
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        name = self._path.name
        names = [
            self._path,
            *(self._path.with_name(f"{name}.{n}") for n in range(1, _MAX_FILES + 1)),
        ]
        if status_of(self._path) is not None:
            for old, new in reversed(list(pairwise(names))):
                with suppress(FileNotFoundError):
                    rename(old, new)
        self.stream = self._open()

    def start_new(self) -> None:
        """Start a new file, if possible."""
        self.acquire()
        try:
            self.doRollover()
        except (OSError, OutputError):  # logging is best effort
            pass
        finally:
            self.release()

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore the error: the run itself reports a full disk, once."""


class _OneLine(logging.Formatter):
    """A message on one line, tracebacks line by line; no control characters, no secrets."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return safe_text(super().formatMessage(record))[:_MAX_CHARACTERS]

    def formatException(self, ei: object) -> str:
        return _line_by_line(super().formatException(ei))  # type: ignore[arg-type]

    def format(self, record: logging.LogRecord) -> str:
        """Add the traceback that an asset's error carries as text."""
        trace = _line_by_line(getattr(record, "trace", ""))
        return "\n".join(filter(None, [super().format(record), trace]))


def _show_deprecations() -> None:
    """Remove Python's default filters that hide deprecations, which are useful in a log."""
    hidden = (DeprecationWarning, PendingDeprecationWarning)
    for each in list(warnings.filters):
        if each[:2] == ("ignore", None) and each[2] in hidden and each[3:] == (None, 0):
            warnings.filters.remove(each)  # type: ignore[attr-defined]
            warnings.filterwarnings("default", category=each[2], append=True)


def _line_by_line(trace: str) -> str:
    return "\n".join(safe_text(line) for line in trace.splitlines())


@contextmanager
def logged(path: Path) -> Iterator[Log]:
    """Send the log, warnings and tracebacks to a file while the block runs.

    Raises:
        OutputError: The file cannot be written.
    """
    handler = Log(path)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            _show_deprecations()
            yield handler
    except Exception as exc:
        if not isinstance(exc, ConfigError):
            _log.exception("the run ended early")
        raise
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        root.setLevel(level)
        with suppress(OSError):
            handler.close()
