"""Errors that are the answer to a request."""

from __future__ import annotations


class RequestError(Exception):
    """A request that is refused; ``str()`` is one sentence for the client.

    Attributes:
        status: The HTTP status, 4xx, or 503 while the service does not accept requests.
        retry_after_s: Seconds after which the client may try again; ``None`` if that cannot help.
    """

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after_s = status, retry_after_s
