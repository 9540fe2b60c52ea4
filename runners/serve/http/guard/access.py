"""Decides whether a request may use the service."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable

from runners.serve.errors import RequestError
from runners.serve.options import ServeOptions, is_loopback

# for monitors, which have no token; they disclose nothing but whether the service runs
OPEN = frozenset({"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"})


class Access:
    """Checks the token of each request; without a token, the name that the client connected to.

    On a loopback address, a web page that the user has open is a client like any other: its host
    name can be made to resolve to 127.0.0.1 (DNS rebinding). Then ``Host`` has that name.

    Args:
        options: The runner's options.
        open_paths: Paths that need no token.
    """

    def __init__(self, options: ServeOptions, open_paths: Collection[str]) -> None:
        self._open_paths = open_paths
        self._token = options.token and b"Bearer " + options.token.encode()
        self._checks_host = not self._token and not options.public

    def check(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Check a request.

        Args:
            path: The decoded path.
            headers: Names in lower case, and values.

        Raises:
            RequestError: The token is missing or wrong, or the client used a foreign host name.
        """
        sent = dict(headers)
        if self._token and path not in self._open_paths:
            scheme, _, token = sent.get(b"authorization", b"").partition(b" ")
            given = scheme.lower().capitalize() + b" " + token.strip()
            if not hmac.compare_digest(given, self._token):
                raise RequestError(
                    401,
                    "this service needs its token: send the header Authorization: Bearer TOKEN",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        if self._checks_host and not _is_loopback(sent.get(b"host", b"").decode("latin-1")):
            raise RequestError(
                403,
                "this service only answers requests to localhost; set runner.token or "
                "runner.public=true to make it available under other names",
            )


def _is_loopback(host: str) -> bool:
    """Return whether a ``Host`` header names this machine; a missing one is no browser's."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    return not name or is_loopback(name.removeprefix("[").removesuffix("]"))
