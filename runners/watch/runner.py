"""A folder watched for months: each version of a file that has arrived whole is done once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import ConfigError, OutputLockedError
from pipeline.job import Job, Report
from pipeline.system.files import expanded
from runners import budget
from runners.reporting.log import Log, logged
from runners.reporting.status import Status
from runners.reporting.summary import print_summary
from runners.reporting.tally import Tally
from runners.rundir.commit import translated
from runners.rundir.inputs import share_of
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.lock import locked
from runners.rundir.opening import check_settings, one_of, open_ledger, reader
from runners.rundir.record import Record
from runners.watch.files.after import After
from runners.watch.inbox.events import Events
from runners.watch.inbox.inbox import Inbox
from runners.watch.loop import Watching
from runners.watch.signals import hang_up_ignored, heeded
from runners.watch.troubles import Troubles
from runners.watch.work import DRAIN_S, Work


@dataclass
class Watch:
    """Does every file that arrives in a folder, until it is told to stop.

    Attributes:
        ready: When a file is complete: ``settled``, when it has not changed for ``settle_s``;
            ``marker``, when ``<name><marker>`` lies beside it; ``rename``, as soon as it has its
            name, for writers that use temporary ones before.
        settle_s: Seconds.
        marker: Suffix of the marker's name.
        ignore: Patterns of names, or of paths below the folder, to leave out.
        poll_s: Seconds between looks at the folder; events make it look sooner.
        events: Whether to ask the kernel for events.
        after: What becomes of a file that is done: ``keep``, ``move`` or ``delete``; with both,
            what failed is moved to ``failed``.
        done: Where ``move`` puts what is done; by default ``done`` in the folder.
        failed: Where it puts what failed; by default ``failed`` in the folder.
        finalise_every_s: Seconds between aggregates (``coco.json``), when something was done.
        max_passes: Stop after so many looks at the folder and the work they gave; for cron.
        max_failures: Stop, with exit status 4, when more have failed since the start: a number,
            or a share of what was done (``5%``).
        metrics_port: Serve Prometheus metrics at this port of 127.0.0.1.
        on_change: As of ``runner=batch``, and so is ``on_lock``.
        retry_failed: At the start, try again those inputs too that killed their worker.
    """

    ready: Literal["settled", "marker", "rename"] = "settled"
    settle_s: float = 5.0
    marker: str = ".done"
    ignore: list[str] = field(default_factory=list)
    poll_s: float = 10.0
    events: bool = True
    after: Literal["keep", "move", "delete"] = "keep"
    done: str | None = None
    failed: str | None = None
    finalise_every_s: float = 3600.0
    max_passes: int | None = None
    max_failures: int | float | str | None = None
    metrics_port: int | None = None
    on_change: str = "error"
    on_lock: str = "error"
    retry_failed: bool = False

    def __post_init__(self) -> None:
        one_of("ready", self.ready, "settled", "marker", "rename")
        one_of("after", self.after, "keep", "move", "delete")
        one_of("on_change", self.on_change, "error", "restart")
        one_of("on_lock", self.on_lock, "error", "skip")
        budget.allowed(self.max_failures, 0)
        for option, is_right, what in _checks(self):
            if not is_right:
                value = getattr(self, option)
                raise ConfigError(f"runner.{option} is {value!r}; it must be {what}")

    def run(self, job: Job) -> Report:
        """Carry out the job; ends at a signal, or after ``max_passes``.

        Raises:
            ConfigError: ``input`` is not a folder, the device does not exist, or the output holds
                results of other settings; nothing was started.
            StoreError: The weights cannot be had or do not fit.
            OutputLockedError: Another run holds the output.
            OutputError: The output cannot be written at the start, or its ledger is damaged.
            RootGoneError: The folder went away in a run of ``max_passes``.
        """
        root = self._root(job)
        began_s = time.monotonic()
        try:
            with hang_up_ignored(), locked(job.output), logged(job.output / "run.log") as log:
                report, device = self._locked(job, root, log)
        except OutputLockedError:
            if self.on_lock == "skip":
                return Report(0, job.output)
            raise
        if not job.config["quiet"]:
            elapsed_s = time.monotonic() - began_s
            print_summary(report, device, verbose=job.config["verbose"], elapsed_s=elapsed_s)
        return report

    def _root(self, job: Job) -> Path:
        given = job.config["input"]
        if given is None:
            raise ConfigError("no input: runner=watch needs input=PATH of a folder")
        if isinstance(given, list):
            raise ConfigError("runner=watch watches one folder, and input is a list")
        root = expanded(given)
        if given == "-" or not root.is_dir():
            raise ConfigError(f"runner=watch watches a folder, and input={given} is none")
        for option, path in self._trees(root).items():
            if path.resolve() == root.resolve():
                raise ConfigError(f"{option} is the watched folder itself; a folder in it will do")
        return root

    def _trees(self, root: Path) -> dict[str, Path]:
        """Return where files go that are done, and that failed, by option.

        Raises:
            ConfigError: In the watched folder, it is or lies behind a link: somebody who may write
                there may have put that there.
        """
        trees = {}
        for option, given, name in (("done", self.done, "done"), ("failed", self.failed, "failed")):
            path = expanded(given) if given else root / name
            if self.after == "keep":
                trees[f"runner.{option}"] = path
                continue
            for base in (root, root.resolve()):
                if path.is_relative_to(base):
                    path = root / path.relative_to(base)
            if path.is_relative_to(root):
                folders = [path, *path.parents][: len(path.relative_to(root).parts)]
                for link in filter(Path.is_symlink, folders):
                    raise ConfigError(
                        f"runner.{option} is {path}, and {link} is a symbolic link in the watched "
                        f"folder, which is not followed; remove it, or set runner.{option} to the "
                        "folder that it leads to"
                    )
            trees[f"runner.{option}"] = path
        return trees

    def _locked(self, job: Job, root: Path, log: Log) -> tuple[Report, dict[str, Any]]:
        done, failed = self._trees(root).values()
        marker = self.marker if self.ready == "marker" else None
        moved = [done, failed] if self.after != "keep" else []
        leave_out, apart = [job.output.resolve(), *moved], [job.output, *moved]
        with ExitStack() as stack:
            ledger = open_ledger(job, self.on_change)
            if ledger is not None:
                stack.enter_context(ledger)
            status = Status(job.output, metrics=True, metrics_port=self.metrics_port)
            stack.enter_context(status)
            started = time.monotonic()
            stack.enter_context(job.runnable)
            if ledger is None:
                with translated(job.output):
                    ledger = stack.enter_context(Ledger(job.output / LEDGER))
            check_settings(job, ledger, loaded=True)
            share = share_of(job, ledger, self.on_change, can_extend=False)
            share.record(ledger)
            describe = getattr(job.runnable, "describe", lambda: {"device": job.config["device"]})
            inbox = Inbox(
                root,
                ready=self.ready,
                settle_s=self.settle_s,
                marker=self.marker,
                ignore=self.ignore,
                recursive=job.config["source"].get("recursive", True),
                leave_out=leave_out,
                follow=self.after == "keep",
            )
            troubles = Troubles(status)
            work = Work(
                job,
                ledger,
                Tally(status, {"load": time.monotonic() - started}),
                inbox,
                After(self.after, root, done, failed, marker=marker),
                stack.enter_context(reader(job, by_default=True)),
                troubles,
                self.retry_failed,
                self.max_failures,
            )
            warnings = [*getattr(job.model, "warnings", []), *getattr(job.runnable, "warnings", [])]
            device = describe()
            record = Record(job, device, warnings, share.as_json())
            events = stack.enter_context(Events(root, events=self.events, leave_out=apart))
            watching = Watching(self, work, inbox, events, record, log, troubles)
            late = getattr(work.reader, "close", events.wake)
            with heeded(events.wake, late, DRAIN_S) as watching.wishes:
                return watching.carry_out(), device


def _checks(watch: Watch) -> Iterator[tuple[str, bool, str]]:
    """Yield an option, whether its value is right, and what it must be."""
    for option in ("settle_s", "poll_s", "finalise_every_s"):
        value = getattr(watch, option)
        is_right = _is_number(value) and 0 <= value < math.inf
        yield option, is_right, "a number of seconds, not below 0"
    for option in ("events", "retry_failed"):
        yield option, isinstance(getattr(watch, option), bool), "true or false"
    for option in ("done", "failed"):
        value = getattr(watch, option)
        yield option, value is None or (isinstance(value, str) and bool(value)), "a folder's path"
    is_text = isinstance(watch.marker, str) and bool(watch.marker)
    yield "marker", is_text and "/" not in watch.marker, "the end of a file's name"
    is_list = isinstance(watch.ignore, list) and all(isinstance(p, str) for p in watch.ignore)
    yield "ignore", is_list, "a list of patterns, such as [*_thumb.jpg]"
    passes, port = watch.max_passes, watch.metrics_port
    yield "max_passes", passes is None or (_is_whole(passes) and passes >= 1), "1 or more"
    yield "metrics_port", port is None or (_is_whole(port) and 0 <= port <= 65535), "0..65535"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
