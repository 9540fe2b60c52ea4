"""The options of ``runner=serve``."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.validation import check, check_flag, check_number, check_whole


@dataclass(frozen=True)
class ServeOptions:
    """The options of a service, checked.

    Attributes:
        host: Address to listen on.
        port: TCP port; 0 for any free one.
        token: Requests must send it as ``Authorization: Bearer TOKEN``.
        public: Allow requests from other machines without a token.
        max_queue: Images that may wait or be in progress; more are refused with status 429.
        max_wait_ms: Milliseconds that an image may wait for others to share its forward.
        max_body_mb: Largest request, in units of 10^6 bytes.
        timeout_s: Seconds that a client may take to send its request.
        record: Run directory in which requests' images and results are kept; ``None``: nowhere.

    Raises:
        ConfigError: An option has a bad value.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = None
    public: bool = False
    max_queue: int = 64
    max_wait_ms: float = 5
    max_body_mb: float = 64
    timeout_s: float = 30
    record: str | None = None

    def __post_init__(self) -> None:
        is_host = isinstance(self.host, str) and bool(self.host)
        check("host", self.host, is_host, "an address such as 127.0.0.1")
        check_whole("port", self.port, 0, 65535)
        is_token = self.token is None or (isinstance(self.token, str) and bool(self.token))
        check("token", "***", is_token, "text, or null")
        check_flag("public", self.public)
        check_whole("max_queue", self.max_queue, 1)
        for name in ("max_wait_ms", "max_body_mb", "timeout_s"):
            check_number(name, getattr(self, name), 0)
        is_path = self.record is None or (isinstance(self.record, str) and bool(self.record))
        check("record", self.record, is_path, "the path of a run directory, or null")
