"""The lock of an output directory: one run at a time.

It is acquired before the imports that take most of the startup time, so that a second run, such as
one started by cron, exits at once. Hence this module imports only the standard library.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG

NAME = ".lock"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_RUNNERS = {"batch", "watch"}  # that write an output
_held: list[_Held] = []
_not_created: list[Path] = []


class _Held:
    """The lock of a directory, which is created if it is missing.

    Args:
        output: The directory.

    Attributes:
        directory: A descriptor of the directory.
        created: The directories that were created for it.

    Raises:
        OSError: The directory cannot be created or written.
        BlockingIOError: Another run holds the lock.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.created = _create(output)
        self.directory = os.open(output, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._file = self._lock()
        except BaseException:
            os.close(self.directory)
            raise

    def _lock(self) -> int:
        while True:
            file = os.open(NAME, _FLAGS, 0o666, dir_fd=self.directory)
            try:
                if not S_ISREG(os.fstat(file).st_mode):
                    raise OSError(errno.EINVAL, "not a regular file", NAME)
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(self._status(NAME), os.fstat(file)):
                    return file
            except FileNotFoundError:
                pass  # the previous holder removed the file, so the lock has no effect
            except BaseException:
                os.close(file)
                raise
            os.close(file)

    def _status(self, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=self.directory, follow_symlinks=False)

    def is_of(self, output: Path) -> bool:
        """Return whether this is the lock of a directory."""
        with suppress(OSError):
            return os.path.samestat(output.stat(), os.fstat(self.directory))
        return False

    def free(self) -> None:
        """Release the lock."""
        os.close(self._file)
        os.close(self.directory)

    def forget(self) -> None:
        """Remove what was created, unless a run has started in the directory."""
        names = set(os.listdir(self.directory))  # noqa: PTH208 - of a descriptor
        with suppress(OSError):
            if {"run.json", "ledger.sqlite"} & names:
                return
            if "run.log" in names:
                if self._status("run.log").st_size:
                    return
                os.unlink("run.log", dir_fd=self.directory)
            os.unlink(NAME, dir_fd=self.directory)
            for folder in reversed(self.created):
                folder.rmdir()


def hold_early(arguments: Sequence[str]) -> int | None:
    """Acquire the lock of the output that a command line names, if it names one literally.

    Returns:
        The exit status to exit with at once; ``None`` to continue, with or without the lock.
    """
    output, runner = _output(arguments)
    if output is None:
        return None
    try:
        if runner in _RUNNERS:
            _held.append(_Held(output))
        else:
            _not_created.extend(_missing(output))  # Hydra creates it anyway
    except BlockingIOError:
        if "runner.on_lock=skip" in arguments:
            return 0
        print(f"error: {refusal(output)}", file=sys.stderr)  # noqa: T201
        return 11
    except (OSError, ValueError):  # reported later, with more context
        pass
    return None


def forget_early() -> None:
    """Undo ``hold_early`` at exit: remove directories in which no run started."""
    for held in _held:
        held.forget()
        held.free()
    _held.clear()
    for folder in reversed(_not_created):
        with suppress(OSError):  # the directory is not empty
            folder.rmdir()
    _not_created.clear()


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold ``<output>/.lock`` until the block ends; the kernel frees it if the process dies.

    Meanwhile files below the output are opened relative to its descriptor
    (``pipeline.system.descriptors``).

    Raises:
        OutputLockedError: Another run holds it.
        OutputError: The directory cannot be created or written.
    """
    from pipeline.errors import ConfigError, OutputError, OutputLockedError
    from pipeline.system.descriptors import check_regular
    from pipeline.system.descriptors import held as held_open

    early = next((held for held in _held if held.is_of(output)), None)
    try:
        held = early or _Held(output)
    except BlockingIOError as exc:
        raise OutputLockedError(refusal(output)) from exc
    except OSError as exc:
        check_regular(output / NAME)  # raises a more specific error
        where = output / (exc.filename or "")
        raise OutputError(f"cannot write the output {where}: {exc.strerror}") from exc
    try:
        with held_open(output, held.directory):
            yield
    except ConfigError:  # nothing was started, so nothing is left behind
        held.forget()
        raise
    finally:
        if held is not early:
            held.free()


def refusal(output: Path) -> str:
    """Return the message that another run holds a directory."""
    return f"another run holds {output}; wait for it or choose another output"


def _output(arguments: Sequence[str]) -> tuple[Path | None, str]:
    """Return the output directory, ``None`` if only Hydra can resolve it, and the runner."""
    values: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key.startswith(("-", "+", "~")) or key == "experiment":
            return None, ""
        values[key] = value
    value, runner = values.get("output", ""), values.get("runner", "batch")
    if "runner.shard" in values:
        runner = "shard"  # which locks a directory of its own
    if not value.strip() or value[0] in "'\"" or "${" in value or "://" in value:
        return None, runner
    return Path(os.path.expanduser(value)).absolute(), runner  # noqa: PTH111 - never raises


def _create(folder: Path) -> list[Path]:
    """Create a directory and its parents; return those that were missing."""
    missing = _missing(folder)
    for each in missing:
        with suppress(FileExistsError):
            each.mkdir()
    return missing


def _missing(folder: Path) -> list[Path]:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    return missing[::-1]
