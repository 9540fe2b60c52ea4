"""Files at addresses that fsspec knows: ``s3://``, ``gs://``, ``https://``, ``memory://`` ..."""

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
    """Copy the file at an fsspec address (``s3://``, ``https://`` ...), whole or not at all.

    Raises:
        StoreError: There is none, or it cannot be had; says what to install or check.
    """
    with _remote(url) as (system, remote), replaced(path) as file:
        system.get_file(remote, file.name)


def send(path: Path, url: str, *, overwrite: bool) -> None:
    """Copy a file to an fsspec address.

    Raises:
        StoreError: There is one and ``overwrite`` is false, or it cannot be written.
    """
    with _remote(url) as (system, remote):
        with suppress(FileNotFoundError):
            # not exists(), to which every error means no
            if not overwrite and system.info(remote):
                raise StoreError(
                    f"'{redacted_text(url)}' is there already; overwrite it or rename it"
                )
        system.put_file(str(path), remote)


@contextmanager
def _remote(url: str) -> Iterator[tuple[Any, str]]:
    """Open the file system of an address; what its package raises becomes a StoreError."""
    try:
        urlsplit(url)
        is_one = "::" not in url  # fsspec would see a chain of addresses
    except ValueError:
        is_one = False
    if not is_one:
        raise StoreError("the address is malformed; give one like s3://bucket/model.tar.xz")
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]

        yield url_to_fs(url)
    except StoreError:
        raise
    except Exception as exc:  # each package has its own, and fsspec's says what to install
        # which may quote the address, with its password or token
        reason = printable(redacted_text(str(exc))) or type(exc).__name__
        if isinstance(exc, FileNotFoundError):
            reason = "there is no such file"
        raise StoreError(
            f"cannot copy '{redacted_text(url)}': {reason}; check the address, your rights and the "
            "free space"
        ) from exc


def shown(path: str) -> str:
    """Return a path as messages may show it: an address without its password."""
    return redacted_text(path) if "://" in path else path
