"""The process of a job, with everything that it starts."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from hydra.core.utils import JobReturn

_START = (
    "import sys; sys.path[:] = {path}; "
    "from hydra_plugins.hydra_gpu_launcher._child import main; main({fds})"
)


class JobProcess:
    """A process, the leader of a process group of its own.

    Files without a name carry the job and its result, so that nothing is left behind however the
    launcher ends, and a process that dies cannot block the launcher.

    Args:
        payload: The pickled job, for ``_child.main``.
        environment: The environment of the process.

    Attributes:
        stdout: The standard output of the process.
        stderr: The standard error of the process.

    Raises:
        OSError: The process cannot be started.
    """

    def __init__(self, payload: bytes, environment: Mapping[str, str]) -> None:
        self._result = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        lifeline, write_end = os.pipe()
        self._lifeline = os.fdopen(write_end, "wb", buffering=0)
        try:
            with tempfile.TemporaryFile() as job:
                job.write(payload)
                job.seek(0)
                fds = (job.fileno(), self._result.fileno(), lifeline)
                code = _START.format(path=ascii(sys.path), fds="{}, {}, {}".format(*fds))
                self._process = subprocess.Popen(
                    [sys.executable, *_interpreter_flags(), "-c", code],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=dict(environment),
                    pass_fds=fds,
                    start_new_session=True,  # signals and kills reach its own children too
                )
        except BaseException:
            self._lifeline.close()
            self._result.close()
            raise
        finally:
            os.close(lifeline)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.stdout, self.stderr = self._process.stdout, self._process.stderr

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the return code once the process has ended; what it started is killed then."""
        code = self._process.poll()
        if code is not None:
            self._kill_group()
        return code

    def interrupt(self, number: int) -> None:
        """Send a signal: Ctrl-C to the whole group as a terminal does, others to the process."""
        with suppress(ProcessLookupError, PermissionError):
            if number == signal.SIGINT:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)

    def kill(self) -> int:
        """Kill the process and what it started; return its return code."""
        self._kill_group()
        return self._process.wait()

    def result(self) -> tuple[JobReturn | None, str]:
        """Return the result of the job and the reason of a failure; ``None`` if there is none."""
        self._result.seek(0)
        try:
            result: tuple[JobReturn, str] = pickle.load(self._result)
        except EOFError:
            return None, ""
        except Exception as exc:  # cut short, or of classes that this process cannot import
            return None, f"its result cannot be read: {exc}"
        return result

    def close(self) -> None:
        """Close the files."""
        for file in (self._lifeline, self._result, self.stdout, self.stderr):
            file.close()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # nothing is left of it
            os.killpg(self._process.pid, signal.SIGKILL)


def _interpreter_flags() -> list[str]:
    """Return the flags that this interpreter was started with, such as -I and -W."""
    flags: Any = getattr(subprocess, "_args_from_interpreter_flags", list)
    return list(flags())
