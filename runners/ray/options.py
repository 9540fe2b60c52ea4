"""The options of work on Ray, which several runners have."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from pipeline.errors import ConfigError
from pipeline.validation import check, check_flag, check_installed, check_number, check_whole

_ADDRESS = re.compile(r"auto|local|(ray://)?[A-Za-z0-9._-]+:\d{1,5}")
_DAY_S = 86400


@dataclass
class WorkerOptions:
    """How many workers there are, where, and what each gets; checked.

    Attributes:
        workers: Number of workers; ``auto`` means one per GPU, or on the CPU one per machine.
        address: ``local`` starts Ray on this machine, and ends it with the run; ``HOST:PORT`` and
            ``ray://HOST:PORT`` are a running cluster; ``auto`` is the one in the environment
            variable ``RAY_ADDRESS``, otherwise ``local``.
        chunk: Largest number of inputs that a worker gets at once.
        chunk_mb: Largest size of their files together, in units of 10^6 bytes.
        stall_s: Seconds without progress after which a worker is replaced.
        wait_s: Seconds without any worker after which the run ends.
        send_packages: Whether to send the packages in ``trusted_packages`` to the workers, where
            they need not be installed then.
    """

    workers: int | str = "auto"
    address: str = "auto"
    chunk: int = 64
    chunk_mb: int = 256
    stall_s: float = 300.0
    wait_s: float = 600.0
    send_packages: bool = False

    def check_workers(self, *, used: bool = True) -> None:
        """Check these options.

        Args:
            used: Whether there are workers. If not, the options must have their defaults.

        Raises:
            ConfigError: One is not valid, or Ray is not installed.
        """
        if not used:
            defaults = {each.name: each.default for each in fields(self)}
            for each in fields(WorkerOptions):
                if (value := getattr(self, each.name)) != defaults[each.name]:
                    raise ConfigError(f"{each.name}={value}: it applies with runner.executor=ray")
            return
        if self.workers != "auto":
            check_whole("workers", self.workers, 1, 10_000)
        is_address = isinstance(self.address, str) and bool(_ADDRESS.fullmatch(self.address))
        check("address", self.address, is_address, "auto, local, HOST:PORT or ray://HOST:PORT")
        check_whole("chunk", self.chunk, 1, 4096)
        check_whole("chunk_mb", self.chunk_mb, 1, 1 << 20)
        check_number("stall_s", self.stall_s, 1, _DAY_S)
        check_number("wait_s", self.wait_s, 1, _DAY_S)
        check_flag("send_packages", self.send_packages)
        check_installed("ray", extra="ray")
