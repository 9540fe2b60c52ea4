"""One run at a time in an output directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ConfigError, OutputError, OutputLockedError


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold ``<output>/.lock`` until the block ends; the kernel frees it if the process dies.

    Raises:
        OutputLockedError: Another run holds it.
        OutputError: The directory cannot be made or written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = os.open(output / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as exc:
        raise OutputError(f"cannot write the output {output}: {exc.strerror}") from exc
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise OutputLockedError(
                f"another run holds {output}; wait for it or choose another output"
            ) from exc
        try:
            yield
        except ConfigError:  # nothing was started: leave nothing
            _remove_traces(output)
            raise
    finally:
        os.close(lock)


def _remove_traces(output: Path) -> None:
    log = output / "run.log"
    if {path.name for path in output.iterdir()} <= {".lock", log.name} and (
        not log.exists() or not log.stat().st_size
    ):
        log.unlink(missing_ok=True)
        (output / ".lock").unlink()
