"""The options of ``runner=serve``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from pipeline.errors import ConfigError
from pipeline.validation import check, check_flag, check_installed, check_number, check_whole

_ADDRESS = re.compile(r"auto|local|[A-Za-z0-9._-]+:\d{1,5}")


@dataclass(frozen=True)
class ServeOptions:
    """The options of a service, checked.

    Attributes:
        host: Address to listen on.
        port: TCP port; 0 for any free one.
        token: Requests must send it as ``Authorization: Bearer TOKEN``.
        public: Allow requests from other machines without a token.
        devices: Devices that each get a copy of the model, such as ``[cuda:0, cuda:1]``; ``None``
            for the job's ``device`` alone.
        address: Where Ray Serve runs replicas: ``local`` starts Ray on this machine, ``HOST:PORT``
            is a running cluster, ``auto`` the one in the environment variable ``RAY_ADDRESS``,
            otherwise ``local``; ``None`` for no Ray.
        replicas: Number of replicas; ``auto`` means one per GPU, or on the CPU one per machine.
        max_queue: Images that may wait or be in progress; more are refused with status 429.
        max_wait_ms: Milliseconds that an image may wait for others to share its forward.
        max_body_mb: Largest request, in units of 10^6 bytes.
        timeout_s: Seconds that a client may take to send its request.
        record: Directory in which images and results are kept; ``None`` to keep none. It is the
            ``output`` of the job.

    Raises:
        ConfigError: An option has a bad value.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = field(default=None, repr=False)
    public: bool = False
    devices: Sequence[str] | None = None
    address: str | None = None
    replicas: int | str = "auto"
    max_queue: int = 64
    max_wait_ms: float = 5
    max_body_mb: float = 64
    timeout_s: float = 30
    record: str | None = None

    def __post_init__(self) -> None:
        is_host = isinstance(self.host, str) and bool(self.host)
        check("host", self.host, is_host, "an address such as 127.0.0.1")
        check_whole("port", self.port, 0, 65535)
        if not self._is_token():  # its value is a secret, so it is not shown
            raise ConfigError("token must be text without spaces, or null")
        check_flag("public", self.public)
        if self.devices is not None:
            named = [] if isinstance(self.devices, str) else list(self.devices)
            is_list = bool(named) and all(isinstance(each, str) for each in named)
            check("devices", self.devices, is_list, "a list such as [cuda:0,cuda:1], or null")
        self._check_address()
        check_whole("max_queue", self.max_queue, 1)
        check_number("max_wait_ms", self.max_wait_ms, 0)
        check_number("max_body_mb", self.max_body_mb, 0.001)
        check_number("timeout_s", self.timeout_s, 0.1)
        is_name = self.record is None or (isinstance(self.record, str) and bool(self.record))
        check("record", self.record, is_name, "a directory, or null")
        self.check_access(self.host)

    def check_access(self, host: str) -> None:
        """Check that nobody else's machine can use the service by accident.

        Args:
            host: Address or name to listen on.

        Raises:
            ConfigError: Other machines can reach it, and there is neither ``token`` nor ``public``.
        """
        if not (self.token or self.public or is_loopback(host)):
            raise ConfigError(
                f"host: other machines can connect to {host}. Set runner.token="
                "'${oc.env:D2RUN_TOKEN}' so that they need the token in that environment "
                "variable, or runner.public=true to serve everyone"
            )

    def _check_address(self) -> None:
        """Check what concerns Ray."""
        if self.replicas != "auto":
            check_whole("replicas", self.replicas, 1, 10_000)
        if self.address is None:
            if self.replicas != "auto":
                raise ConfigError("replicas: they need runner.address; set it to local or auto")
            return
        is_address = isinstance(self.address, str) and bool(_ADDRESS.fullmatch(self.address))
        check("address", self.address, is_address, "auto, local or HOST:PORT, or null")
        if self.devices is not None:
            raise ConfigError(
                "devices and address: a replica has a GPU of its own; set runner.replicas, and "
                "remove runner.devices"
            )
        if self.record is not None:
            raise ConfigError(
                "record and address: a run directory has one writer, not several replicas; remove "
                "runner.record, or runner.address"
            )
        check_installed("ray", extra="ray-serve")

    def _is_token(self) -> bool:
        if not isinstance(self.token, str):
            return self.token is None
        return self.token.isprintable() and len(self.token.split()) == 1


def is_loopback(name: str) -> bool:
    """Return whether a host name or an address is this machine's own, without looking it up."""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name.lower().rstrip(".") in ("localhost", "localhost.localdomain")
