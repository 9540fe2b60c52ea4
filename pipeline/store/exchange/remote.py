"""Copies files from and to addresses that fsspec supports, such as ``s3://`` and ``https://``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import StoreError, printable
from pipeline.redaction import redacted_text
from pipeline.system.files import replaced


def fetch(url: str, path: Path) -> None:
    """Copy the file at an address to a local path, atomically.

    Raises:
        StoreError: The file does not exist or is unavailable; says what to install or check.
    """
    with _remote(url) as (system, remote), replaced(path) as file:
        system.get_file(remote, file.name)


def send(path: Path, url: str, *, overwrite: bool) -> None:
    """Copy a local file to an address.

    Raises:
        StoreError: The address has a file and ``overwrite`` is false, or it cannot be written.
    """
    with _remote(url) as (system, remote):
        with suppress(FileNotFoundError):
            # not exists(), which returns False for every error
            if not overwrite and system.info(remote):
                raise StoreError(
                    f"'{redacted_text(url)}' already exists; choose another path or add --force"
                )
        system.put_file(str(path), remote)


@contextmanager
def _remote(url: str) -> Iterator[tuple[Any, str]]:
    """Open the file system of an address, and translate its errors to StoreError."""
    try:
        urlsplit(url)
        is_single = "::" not in url  # fsspec would read a chain of addresses
    except ValueError:
        is_single = False
    if not is_single:
        raise StoreError("malformed address; give one like s3://bucket/model.tar.xz")
    try:
        from fsspec.core import url_to_fs

        yield url_to_fs(url)
    except StoreError:
        raise
    except Exception as exc:  # each package has its own types
        # the text can quote the address with its password or token
        reason = printable(redacted_text(str(exc))) or type(exc).__name__
        if isinstance(exc, FileNotFoundError):
            reason = "no such file"
        raise StoreError(
            f"cannot copy '{redacted_text(url)}': {reason}; check the address, your permissions "
            "and the free space"
        ) from exc


def shown(path: str) -> str:
    """Return a path for messages: an address without its password."""
    return redacted_text(path) if "://" in path else path
