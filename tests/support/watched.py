"""A watch in a thread of the test process, so that faults can be injected into it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT
from hydra import compose, initialize_config_dir
from processes import wait_for

import runners.watch.runner as runner
from pipeline.config.build import build_job
from pipeline.job import Report
from runners.reporting.status import Status
from runners.watch.signals import StopRequests

QUICK = ("runner.settle_s=0.1", "runner.poll_s=0.1", "runner.finalize_every_s=0")
IN_THIS_PROCESS = "decode.isolation=none"


class Watched:
    """A watch that runs until ``stop`` is called, or until it ends by itself.

    Attributes:
        inbox: The watched folder.
        out: The output.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.inbox, self.out = folder / "in", folder / "out"
        self.inbox.mkdir(exist_ok=True)
        self._patch = patch
        self._thread: threading.Thread | None = None

    def start(self, *arguments: str) -> None:
        """Start it, with the arguments of a command line."""
        given = ["model=mask_rcnn", "runnable=fake", "sink=[coco]", "runner=watch", "quiet=true"]
        given += [*QUICK, f"input={self.inbox}", f"output={self.out}"]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            job = build_job(compose("config", [*given, *arguments]))
        self.ended = None
        ready = threading.Event()

        @contextmanager
        def handled(
            requests: StopRequests, wake: Any, abort: Any, abort_after_s: float
        ) -> Iterator[None]:
            self.requests, self._wake, self._abort = requests, wake, abort
            ready.set()
            yield

        def monitored(*args: Any, **kwargs: Any) -> Status:
            self._status = Status(*args, every_s=0.05, **kwargs)
            return self._status

        self._patch.setattr(runner, "signals_handled", handled)
        self._patch.setattr(runner, "Status", monitored)

        def run() -> None:
            try:
                self.ended = job.runner.run(job)  # type: ignore[assignment]
            except BaseException as exc:
                self.ended = exc  # type: ignore[assignment]
            ready.set()

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert ready.wait(30)

    def stop(self, status: int = 0, *, abort: bool = False) -> Report:
        """Do what a signal does, and wait for the end."""
        self.requests.request_stop(status)
        self._wake()
        if abort:
            self._abort()
        return self.wait()

    def hang_up(self) -> None:
        """Do what SIGHUP does."""
        self.requests.refresh = True
        self._wake()

    def wait(self) -> Report:
        """Wait until it has ended; raises the exception that ended it."""
        assert self._thread is not None
        self._thread.join(30)
        assert not self._thread.is_alive(), "it is still running"
        if isinstance(self.ended, BaseException):
            raise self.ended
        assert self.ended is not None
        return self.ended

    def abandon(self) -> None:
        """Stop it, unless the test has."""
        if self._thread is not None and self._thread.is_alive():
            self.requests.request_stop(0)
            self._wake()
            self._abort()
            self._thread.join(30)

    def lines(self, name: str = "predictions.jsonl") -> list[dict[str, Any]]:
        """Return the objects of a list in the output, as far as it is written."""
        path = self.out / name
        text = path.read_bytes() if path.exists() else b""
        return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]

    def assets(self, name: str = "predictions.jsonl") -> list[str]:
        """Return the ids in a list, sorted."""
        return sorted(line["asset"] for line in self.lines(name))

    def wait_for_assets(self, *ids: str) -> None:
        """Wait until these, and no others, have results that are committed."""
        wait_for(lambda: self.assets("inputs.jsonl") == sorted(ids))

    def status(self) -> dict[str, Any]:
        """Return what ``status.json`` says, or would say if there were room for it."""
        return self._status.snapshot()

    def metrics(self) -> str:
        """Return what ``metrics.prom`` says at the end."""
        return (self.out / "metrics.prom").read_text()

    def repair(self) -> None:
        """Rebuild the ledger."""
        given = ["model=mask_rcnn", "runnable=fake", "sink=[coco]", "runner=repair", "quiet=true"]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            job = build_job(compose("config", [*given, f"output={self.out}"]))
        job.runner.run(job)

    def wait_for_health(self, text: str) -> None:
        """Wait until the health begins like this."""
        wait_for(lambda: (self.status()["health"] or "").startswith(text))
