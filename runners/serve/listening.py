"""The socket that a service listens on: its own, or one that systemd has opened for it."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from pipeline.errors import ConfigError
from runners.serve.options import ServeOptions

_FIRST = 3  # sd_listen_fds(3)


@dataclass(frozen=True)
class Listening:
    """A bound socket.

    Attributes:
        socket: The socket.
        is_inherited: Whether systemd has opened it; it stays open when this process ends.
    """

    socket: socket.socket
    is_inherited: bool

    @property
    def url(self) -> str:
        """The address of the service."""
        if self.socket.family == getattr(socket, "AF_UNIX", None):
            return f"unix:{self.socket.getsockname()}"
        host, port = self.socket.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def listen(options: ServeOptions) -> Listening:
    """Return systemd's socket if there is one (``LISTEN_FDS``), otherwise bind one.

    The socket of its own refuses connections until the server starts: a process that ends while it
    loads its model has accepted no request.

    Raises:
        ConfigError: The address is not available, or it is one that other machines can reach, and
            there is neither ``token`` nor ``public``.
    """
    inherited = _inherited()
    if inherited is None:
        return Listening(_opened(options.host, options.port), is_inherited=False)
    if inherited.family in (socket.AF_INET, socket.AF_INET6):
        try:
            options.check_access(inherited.getsockname()[0])
        except ConfigError as exc:
            raise ConfigError(f"the socket of systemd: {exc}") from None
    return Listening(inherited, is_inherited=True)


def _opened(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
        return bound
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise ConfigError(
            f"cannot listen on runner.host={host}, runner.port={port}: {reason}"
        ) from exc


def _inherited() -> socket.socket | None:
    """Return the socket that systemd passed to this process."""
    names = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    process, number, _ = (os.environ.pop(name, "") for name in names)  # not for our own children
    if process != str(os.getpid()) or number in ("", "0"):
        return None
    if number != "1":
        raise ConfigError(f"systemd passed {number} sockets (LISTEN_FDS); runner=serve needs one")
    try:
        passed = socket.socket(fileno=_FIRST)
        is_listening = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as exc:
        raise ConfigError(f"LISTEN_FDS: descriptor {_FIRST} is not a socket") from exc
    if not is_listening:
        raise ConfigError("LISTEN_FDS: the socket does not listen; set Accept=no in its unit")
    os.set_inheritable(_FIRST, False)
    return passed
