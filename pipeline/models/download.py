"""Downloads weights once, atomically, and verifies them on every later use."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import http.client
import logging
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pipeline.errors import ConfigError, ModelCorruptError, StoreError
from pipeline.models.foreign import HEAD, describe
from pipeline.redaction import redacted_text
from pipeline.system.files import read_regular, replaced, sha256_file, write_whole

_ATTEMPTS = 3
_TIMEOUT_S = 30.0  # between two bytes, not for the whole file
_BLOCK = 1 << 18

_log = logging.getLogger(__name__)


class _TransientError(Exception):
    """A failure that can disappear on another attempt."""


def local_path(url: str, folder: Path) -> Path:
    """Return the local path for an address: ``<folder>/<host>/<path>``.

    If the address has a query, its digest becomes part of the file name.

    Raises:
        ConfigError: The address is not an http or https address of a file.
    """
    try:
        parts = urlsplit(url)
        port = f"_{parts.port}" if parts.port else ""
    except ValueError as exc:
        raise ConfigError(  # without the text of exc, which can contain part of a password
            f"malformed address of the weights: '{redacted_text(url)}'. In a user or password, "
            "write / ? # @ % as %2F %3F %23 %40 %25"
        ) from exc
    # quoted again, so that "%2e%2e" and "%2f" cannot lead out of the directory
    names = [quote(unquote(part), safe="~ ") for part in parts.path.split("/") if part]
    if parts.scheme not in ("http", "https") or not parts.hostname or not names:
        raise ConfigError(f"expected an http(s) address of a file, got '{redacted_text(url)}'")
    if any(name in (".", "..") for name in names):
        raise ConfigError(
            f"the path of '{redacted_text(url)}' has a '..'; give the address without it"
        )
    last = Path(names[-1])
    if parts.query:
        mark = hashlib.sha256(parts.query.encode()).hexdigest()[:12]
        names[-1] = f"{last.stem}-{mark}{last.suffix}"
    return folder.joinpath(parts.hostname + port, *names)


def download(url: str, folder: Path, *, backoff_s: float = 1.0) -> Path:
    """Return the local file for an address, and download it if it is missing.

    Its SHA-256 is in a file next to it (``.sha256``, in the format of sha256sum) and verified on
    every call. A file that the user placed there is accepted, and its digest recorded. If several
    processes request the same file, one downloads it and the others wait.

    Args:
        url: An http(s) address. A user and password in it are sent, and never shown.
        folder: Directory for downloads.
        backoff_s: Pause before the second attempt; doubled before the third.

    Raises:
        ConfigError: The address is not one of a file.
        StoreError: The file is unavailable; says why and where to place it.
        ModelCorruptError: The file differs from what was downloaded.
    """
    path = local_path(url, folder)
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.parent):
                if not path.is_file():
                    _with_attempts(url, path, backoff_s)
        _verify(path)
    except OSError as exc:
        raise StoreError(f"cannot write the download '{path}': {exc.strerror or exc}") from exc
    return path


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _digest_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _record(path: Path, digest: str) -> None:
    write_whole(_digest_path(path), f"{digest}  {path.name}\n")


def _verify(path: Path) -> None:
    digest = sha256_file(path)
    try:
        recorded = read_regular(_digest_path(path), 4096).decode("ascii", "replace").split()
    except FileNotFoundError:
        return _record(path, digest)
    if recorded[:1] != [digest]:
        raise ModelCorruptError(
            f"'{path}' does not match its .sha256; delete both files to download it again"
        )
    return None


def _with_attempts(url: str, path: Path, backoff_s: float) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _fetch(url, path)
        except _TransientError as exc:
            reason = str(exc)
            if attempt < _ATTEMPTS:
                _log.warning("%s: %s; retrying", redacted_text(url), reason)
                time.sleep(backoff_s * 2 ** (attempt - 1))
        except urllib.error.HTTPError as exc:
            exc.close()
            reason = f"HTTP {exc.code} {exc.reason}"
            break
        except urllib.error.URLError as exc:
            reason = str(exc.reason)
            break
    raise StoreError(
        f"cannot download {redacted_text(url)}: {reason}. Without a network, place the file at "
        f"'{path}' or set model.weights=PATH"
    )


def _fetch(url: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(_request(url), timeout=_TIMEOUT_S) as response:
            length = response.headers.get("Content-Length")
            _save(response, int(length) if (length or "").isdigit() else None, url, path)
    except urllib.error.HTTPError as exc:
        if exc.code < 500 and exc.code != 429:
            raise
        exc.close()
        raise _TransientError(f"HTTP {exc.code} {exc.reason}") from exc
    except urllib.error.URLError as exc:
        if not isinstance(exc.reason, (ConnectionResetError, TimeoutError)):
            raise
        raise _TransientError(str(exc.reason)) from exc
    except (ConnectionError, TimeoutError, http.client.HTTPException) as exc:
        raise _TransientError(str(exc) or type(exc).__name__) from exc


def _request(url: str) -> urllib.request.Request:
    parts = urlsplit(url)
    credentials, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit((parts.scheme, host, *parts[2:4], "")))
    if credentials:
        token = base64.b64encode(unquote(credentials).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _save(response: http.client.HTTPResponse, length: int | None, url: str, path: Path) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    digest = hashlib.sha256()
    size = 0
    terminal = sys.stderr.isatty()
    if not terminal:
        _log.info("downloading %s to %s", redacted_text(url), path)
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), disable=not terminal)
    with progress, replaced(path) as file:
        task = progress.add_task(path.name, total=length)
        while block := response.read(_BLOCK):
            if not size and (what := describe(block[:HEAD])):
                raise StoreError(f"{redacted_text(url)} is {what}")
            file.write(block)
            digest.update(block)
            size += len(block)
            progress.update(task, advance=len(block))
        if length is not None and size != length:
            raise _TransientError(f"the connection ended after {size} of {length} bytes")
    _record(path, digest.hexdigest())
