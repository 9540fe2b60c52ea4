"""Commands of d2run in forks of one process that has imported everything.

The imports take six times as long as a small run. A fork starts where they have ended; otherwise
it is a process like any other, with its own streams, directory and environment.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# a run with the fake runnable imports them late; none starts a thread or imports torch
MODULES = (
    "runners.batch", "runners.entry", "pipeline.store", "pipeline.runnables.fake",
    "pipeline.sources.auto", "pipeline.stages.min_score", "pipeline.sinks.coco",
    "pipeline.sinks.overlay", "PIL.Image",
    *(f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Ppm", "Png")),
)  # fmt: skip


def warm(*more: str) -> None:
    """Import what the forks need, and more, but nothing that starts threads."""
    import cv2
    from hydra.core.plugins import Plugins

    for name in (*MODULES, *more):
        import_module(name)
    Plugins.instance()
    cv2.setNumThreads(0)


class Forks:
    """A warm process that runs scripts in its forks, one at a time.

    Args:
        environment: Of the warm process. A fork has its own, but what Python made of this one.
        modules: What else is imported.
    """

    def __init__(self, environment: dict[str, str], *modules: str) -> None:
        self._environment, self._modules = environment, modules
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self) -> None:
        self._calls, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    str(Path(__file__).resolve()),
                    str(theirs.fileno()),
                    *self._modules,
                ],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def close(self) -> None:
        """End the process and the fork that it waits for."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._calls.close()
            self._process = None

    def run(
        self,
        arguments: list[str],
        *,
        cwd: Path,
        env: dict[str, str],
        timeout: float,
        input: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Do what ``subprocess.run`` does with a script and ``capture_output``."""
        if self._process is None:
            self._start()
        pipes = [os.pipe() for _ in range(3)]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
        call = {"arguments": arguments, "cwd": str(cwd), "env": env}
        socket.send_fds(self._calls, [json.dumps(call).encode()], theirs)
        for descriptor in theirs:
            os.close(descriptor)
        self._calls.settimeout(timeout)
        with ThreadPoolExecutor(2) as pool:
            read = [pool.submit(_read, pipe[0]) for pipe in pipes[1:]]
            try:
                with suppress(BrokenPipeError), open(pipes[0][1], "w") as stdin:  # noqa: PTH123
                    stdin.write(input)
                status = int(self._calls.recv(64))
                out, err = (each.result(timeout) for each in read)
            except (TimeoutError, FutureTimeoutError):
                self.close()
                raise subprocess.TimeoutExpired(arguments, timeout) from None
        return subprocess.CompletedProcess(arguments, status, out, err)


def _read(descriptor: int) -> str:
    with open(descriptor, errors="surrogateescape") as file:
        return file.read()


def _serve(calls: socket.socket) -> dict[str, Any] | None:
    """Fork for each call; return it in the fork, and nothing when there are no more."""
    while True:
        text, descriptors, _, _ = socket.recv_fds(calls, 1 << 16, 3)
        if not text:
            return None
        child = os.fork()
        if not child:
            calls.close()
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
                os.close(descriptor)
            for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
                _reopen(name, mode)
            return dict(json.loads(text))
        for descriptor in descriptors:
            os.close(descriptor)
        _, status = os.waitpid(child, 0)
        calls.send(str(os.waitstatus_to_exitcode(status)).encode())


def _reopen(name: str, mode: str) -> None:
    """Give ``sys`` a stream that knows what its descriptor is now."""
    old = getattr(sys, name)
    new = open(  # noqa: SIM115
        old.fileno(), mode, encoding=old.encoding, errors=old.errors, closefd=False
    )
    setattr(sys, name, new)
    setattr(sys, f"__{name}__", new)


def _main() -> None:
    sys.path[0] = str(ROOT)
    warm(*sys.argv[2:])
    call = _serve(socket.socket(fileno=int(sys.argv[1])))
    if call is None:
        return
    os.chdir(call["cwd"])
    os.environ.clear()
    os.environ.update(call["env"])
    sys.argv = call["arguments"]
    sys.orig_argv = [sys.executable, *sys.argv]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _main()
