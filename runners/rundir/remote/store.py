"""The objects below an address, through fsspec: each request is tried again for a while."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import TypeVar

from pipeline.errors import ConfigError, OutputError
from pipeline.redaction import redacted_text
from pipeline.sources.fetching import reason
from pipeline.system.terminal import print_stderr

_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # a network is often back within a minute
_FINAL = (ImportError, NotImplementedError, TypeError, ValueError)
_BAD_BYTES = {0xDC80 + i: 0xEF80 + i for i in range(128)}  # keys are UTF-8, file names any bytes
_RAW_BYTES = {private: raw for raw, private in _BAD_BYTES.items()}
T = TypeVar("T")


class ObjectStore:
    """The objects below an address. Can be used on several threads at once.

    Names are relative to the address, as file names are to a run directory.

    Args:
        address: An address that fsspec supports.

    Attributes:
        shown: The address without its secrets.

    Raises:
        ConfigError: A package for the address is missing, or it is not valid.
    """

    def __init__(self, address: str) -> None:
        self.shown = redacted_text(address)
        self._closed, self._is_waiting = Event(), False
        from fsspec.core import url_to_fs

        try:
            self._system, root = url_to_fs(address)
        except ImportError as exc:
            scheme = address.partition("://")[0]
            raise ConfigError(f"output: {scheme}:// needs a package: {exc}") from exc
        except Exception as exc:  # each package has its own types
            raise ConfigError(f"output: cannot use '{self.shown}': {reason(exc)}") from exc
        self._root = str(root).rstrip("/")

    def read(self, name: str) -> bytes | None:
        """Return an object; ``None`` if there is none.

        Raises:
            OutputError: The store cannot be reached, or refuses.
        """

        def get() -> bytes | None:
            with suppress(FileNotFoundError):
                return bytes(self._system.cat_file(self._path(name)))
            return None

        return self._tried(f"read {name}", get)

    def write(self, name: str, data: bytes) -> None:
        """Write an object, at once.

        Raises:
            OutputError: As ``read``.
        """
        self._tried(f"write {name}", lambda: self._system.pipe_file(self._path(name), data))

    def upload(self, path: Path, name: str) -> None:
        """Copy a file to an object.

        Raises:
            OutputError: As ``read``.
            FileNotFoundError: The file is missing.
        """

        def put() -> None:
            try:
                self._system.put_file(str(path), self._path(name))
            except FileNotFoundError:
                path.stat()  # whether the file or the bucket is missing
                raise

        self._tried(f"write {name}", put, path)

    def download(self, name: str, path: Path) -> None:
        """Copy an object to a file.

        Raises:
            OutputError: As ``read``, or there is no such object.
        """
        self._tried(f"read {name}", lambda: self._system.get_file(self._path(name), str(path)))

    def remove(self, name: str) -> None:
        """Remove an object, which may be missing.

        Raises:
            OutputError: As ``read``.
        """

        def remove() -> None:
            with suppress(FileNotFoundError):
                self._system.rm_file(self._path(name))

        self._tried(f"remove {name}", remove)

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Return the size of each object by name: of all, or of those in a folder and below.

        Raises:
            OutputError: As ``read``.
        """
        start = len(self._root) + 1

        def find() -> dict[str, int]:
            self._system.invalidate_cache()
            path = self._path(folder.rstrip("/")) if folder else self._root
            found = self._system.find(path, detail=True)
            return {
                str(name)[start:].translate(_RAW_BYTES): int(info.get("size") or 0)
                for name, info in found.items()
                if info.get("type") != "directory" and not str(name).endswith("/")
            }

        try:
            return self._tried("list objects", find)
        except _NothingThere:
            return {}

    def top_names(self) -> set[str]:
        """Return the names of objects and folders at the address, but not below.

        Raises:
            OutputError: As ``read``.
        """

        def ls() -> set[str]:
            self._system.invalidate_cache()
            with suppress(FileNotFoundError):
                found = self._system.ls(self._root, detail=False)
                return {str(name).rstrip("/").rpartition("/")[2] for name in found}
            return set()

        return self._tried("list objects", ls)

    def close(self) -> None:
        """Try nothing again from now on."""
        self._closed.set()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name.translate(_BAD_BYTES)}"

    def _tried(self, what: str, call: Callable[[], T], path: Path | None = None) -> T:
        """Call a function until it succeeds, or until its error is final."""
        for pause_s in (*_PAUSES_S, None):
            try:
                result = call()
                self._is_waiting = False
                return result
            except FileNotFoundError as exc:
                if path is not None and not path.exists():
                    raise
                if what.startswith("list"):
                    raise _NothingThere from exc
                raise self._error(what, exc) from exc
            except Exception as exc:  # each package has its own types
                if pause_s is None or _is_final(exc):
                    raise self._error(what, exc) from exc
                self._say_once(what, exc)
                if self._closed.wait(pause_s):
                    raise self._error(what, exc) from exc
        raise AssertionError  # unreachable: the last pause is None

    def _say_once(self, what: str, exc: Exception) -> None:
        """Say why the run waits, unless a request that waits has said so."""
        if not self._is_waiting:
            self._is_waiting = True
            print_stderr(
                f"warning: cannot {what} in the output '{self.shown}': {reason(exc)}; trying again"
            )

    def _error(self, what: str, exc: Exception) -> OutputError:
        """Return the error to raise: one line, and what to do."""
        why, remedy = reason(exc), "what is committed is kept; run the same command again"
        if isinstance(exc, FileNotFoundError):
            why = "no such bucket, or no such object"
            remedy = "create the bucket, or check the address"
        elif _is_refused(exc):
            remedy = "check the credentials in the environment and their permissions"
            why = why.partition(";")[0]
        elif _is_final(exc):
            remedy = "choose another output"
        return OutputError(f"cannot {what} in the output '{self.shown}': {why}; {remedy}")


class _NothingThere(Exception):
    """No object is below the address."""


def _is_final(exc: Exception) -> bool:
    return isinstance(exc, _FINAL) or _is_refused(exc)


def _is_refused(exc: Exception) -> bool:
    return isinstance(exc, PermissionError) or "Credentials" in type(exc).__name__
