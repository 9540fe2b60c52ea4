"""A Ray cluster of one machine, started as a user starts it."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from command_line import environment


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Cluster:
    """A cluster at a fixed port, which asks for a token.

    Attributes:
        port: The port.
        token: The token.

    Args:
        folder: Its files; the path must be short.
        arguments: More of ``ray start``.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._folder, self._arguments = folder, arguments
        self.port, self.token = free_port(), secrets.token_hex(32)

    def start(self) -> None:
        given = ["--head", "--num-cpus=1", "--include-dashboard=false", "--disable-usage-stats"]
        given += [f"--port={self.port}", f"--temp-dir={self._folder}", *self._arguments]
        ray = Path(sys.executable).with_name("ray")
        more = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        env = environment(self._folder) | more
        subprocess.run([str(ray), "start", *given], env=env, check=True, capture_output=True)

    def kill(self) -> None:
        """Kill all of its processes, which have its home in their environment."""
        mine = f"HOME={self._folder}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mine in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)
