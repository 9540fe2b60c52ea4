"""The options of ``runner=serve``."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.validation import check_choice, check_number, check_whole


@dataclass(frozen=True)
class ServeOptions:
    """The options of a service, checked.

    Attributes:
        host: Address to listen on: one that only this machine can reach.
        port: TCP port; 0 for any free one.
        max_queue: Images that may wait or be in progress; more are refused with status 429.
        max_wait_ms: Milliseconds that an image may wait for others to share its forward.

    Raises:
        ConfigError: An option has a bad value.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    max_queue: int = 64
    max_wait_ms: float = 5

    def __post_init__(self) -> None:
        check_choice("host", self.host, ("127.0.0.1", "localhost"))
        check_whole("port", self.port, 0, 65535)
        check_whole("max_queue", self.max_queue, 1)
        check_number("max_wait_ms", self.max_wait_ms, 0)
