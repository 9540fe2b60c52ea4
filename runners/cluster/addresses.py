"""Checks of the address of a cluster, because Ray would try for minutes, or end the process."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError

_CONNECT_S = 10.0


def has_token() -> bool:
    """Return whether there is a token at one of the places where Ray looks for it."""
    return (
        bool(os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"))
        or Path("~/.ray/auth_token").expanduser().exists()
    )


def check_port(address: str) -> None:
    """Check that a server answers as Ray's do: in HTTP/2.

    Raises:
        OSError: There is none, or none that does.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), _CONNECT_S) as connection:
        connection.settimeout(_CONNECT_S)
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        if connection.recv(9)[3:4] != b"\x04":
            raise OSError("another service has this port")


def check_token(ray: Any, address: str, where: str) -> None:
    """Ask a cluster for its id, which it says only to those who have its token.

    Raises:
        ConfigError: The token is missing, or wrong.
    """
    with _stderr_discarded():
        try:
            importlib.import_module("ray._raylet").GcsClient(address=address)
        except getattr(ray.exceptions, "AuthenticationError", ()) as exc:
            raise ConfigError(
                f"{where}: the cluster wants its token; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH "
                "to a file that contains it"
            ) from exc


@contextmanager
def _stderr_discarded() -> Iterator[None]:
    """Discard what Ray's own code in C++ writes to standard error."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
