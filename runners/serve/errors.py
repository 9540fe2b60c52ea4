"""Errors that are the answer to a request."""

from __future__ import annotations

from collections.abc import Mapping


class RequestError(Exception):
    """A request that is refused; ``str()`` is one sentence for the client.

    Attributes:
        status: The HTTP status, 4xx, or 503 while the service cannot do its work.
        headers: Additional headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Make the error.

        Args:
            status: The HTTP status.
            message: One sentence for the client.
            retry_after_s: Seconds after which the client may try again; ``None`` if that cannot
                help.
            headers: Additional headers.
        """
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(retry_after_s)
