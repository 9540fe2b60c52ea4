"""A URL that receives files: one POST, and what its answer means."""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit

from pipeline.errors import ConfigError
from pipeline.redaction import safe_text

_BLOCK = 1 << 16
_RETRIED = {408, 425, 429}  # and 5xx


class Answer(NamedTuple):
    """What became of a POST.

    Attributes:
        is_accepted: The receiver has the file.
        is_final: Another attempt would not change that.
        reason: Why it was not accepted; without the URL, which may hold a secret.
        wait_s: How long the receiver asked to wait; ``None`` if it did not say.
    """

    is_accepted: bool
    is_final: bool
    reason: str = ""
    wait_s: float | None = None


class Endpoint:
    """A URL. Redirects are not followed, and proxies in the environment are not used.

    Args:
        url: ``http`` or ``https``, without user and password.
        secret: Key of the signature, ``None`` for none.
        timeout_s: Longest wait for a connection, and for each part of an answer.

    Raises:
        ConfigError: The URL is not one of these.
    """

    def __init__(self, url: str, secret: bytes | None, timeout_s: float) -> None:
        self._connection = _connection(url, timeout_s)
        parts = urlsplit(url)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._secret = secret
        self._is_aborted = False

    def post(self, body: BinaryIO) -> Answer:
        """Send a file; its digest is the idempotency key."""
        is_fresh = self._connection.sock is None
        headers = _headers(body, self._secret)
        try:
            answer = self._attempt(body, headers)
        except (ConnectionError, HTTPException) as exc:
            if is_fresh or self._is_aborted:
                return self._failed(exc)
            self._connection.close()  # the receiver may have closed a connection that was idle
            try:
                answer = self._attempt(body, headers)
            except Exception as again:
                return self._failed(again)
        except Exception as exc:  # a bad host name is a ValueError
            return self._failed(exc)
        return answer

    def abort(self) -> None:
        """End the current POST; called on another thread."""
        self._is_aborted = True
        sock: socket.socket | None = self._connection.sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next POST opens one."""
        self._connection.close()

    def _attempt(self, body: BinaryIO, headers: dict[str, str]) -> Answer:
        body.seek(0)
        with suppress(BrokenPipeError):  # the receiver has answered before it has read all
            self._connection.request("POST", self._target, body, headers)
        response = self._connection.getresponse()
        is_whole = False
        with suppress(OSError, HTTPException):  # the status says it all
            response.read(_BLOCK)
            is_whole = not response.read(1)
        if not is_whole:
            self._connection.close()
        if 200 <= response.status < 300:
            return Answer(True, True)
        is_retried = response.status in _RETRIED or response.status >= 500
        return Answer(
            False,
            not is_retried,
            f"it answered {response.status}",
            _seconds(response.getheader("Retry-After")),
        )

    def _failed(self, exc: Exception) -> Answer:
        self._connection.close()
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        return Answer(False, False, f"{type(exc).__name__}: {reason}" if reason else repr(exc))


def _connection(url: str, timeout_s: float) -> HTTPConnection:
    """Return an unopened connection to the host of a URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    is_plain = url.isascii() and url.isprintable() and " " not in url
    valid = is_plain and parts.scheme in ("http", "https") and "@" not in parts.netloc
    if not valid or not host:
        raise ConfigError(
            "url: expected an http:// or https:// address without user and password, got "
            f"'{safe_text(url)}'"
        )
    if parts.scheme == "http":
        return HTTPConnection(host, port, timeout=timeout_s)
    return HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())


def _headers(body: BinaryIO, secret: bytes | None) -> dict[str, str]:
    digest = hashlib.sha256()
    mac = hmac.new(secret, digestmod=hashlib.sha256) if secret is not None else None
    size = 0
    body.seek(0)
    while block := body.read(_BLOCK):
        digest.update(block)
        size += len(block)
        if mac is not None:
            mac.update(block)
    headers = {
        "Content-Type": "application/x-ndjson",
        "Content-Length": str(size),
        "Idempotency-Key": digest.hexdigest(),
        "User-Agent": "d2run",
    }
    if mac is not None:
        headers["X-D2run-Signature"] = f"sha256={mac.hexdigest()}"
    return headers


def _seconds(retry_after: str | None) -> float | None:
    text = (retry_after or "").strip()
    return float(text) if text.isascii() and text.isdigit() else None
