"""``runner=watch``: processes each version of each file in a folder once, as files arrive."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

from pipeline.errors import OutputLockedError, PipelineError
from pipeline.job import Job, Report
from pipeline.sources.decode.workers import DecodeWorkers
from runners.ray.pool import Pool
from runners.ray.remote import RemoteRunnable
from runners.ray.starting import opened_pool, with_workers
from runners.reporting.log import Log, logged
from runners.reporting.progress import announce_loading
from runners.reporting.status import Status
from runners.reporting.summary import print_summary
from runners.reporting.tally import Tally
from runners.rundir.lock import locked
from runners.rundir.opening import StartedRun, open_run
from runners.rundir.readers import file_reader
from runners.watch.files.postprocessing import PostProcessing
from runners.watch.folders import WatchFolders, kinds_of, watch_folders
from runners.watch.health import HealthIssues
from runners.watch.inbox.events import Events
from runners.watch.inbox.inbox import Inbox
from runners.watch.loop import WatchLoop
from runners.watch.messages import Messages
from runners.watch.options import WatchOptions
from runners.watch.processing import Processing
from runners.watch.schedule import DRAIN_S, Schedule
from runners.watch.signals import StopRequests, sighup_ignored, signals_handled
from runners.watch.workers import WatchWorkers


@dataclass
class Watch(WatchOptions):
    """Processes every file that arrives in a folder, until stopped."""

    def run(self, job: Job) -> Report:
        """Run the job; ends at a signal, or after ``max_passes``.

        Raises:
            ConfigError: ``input`` is not a folder, the device or the cluster does not exist, or the
                output holds results of other settings; nothing was started.
            StoreError: The weights are unavailable or do not fit the model.
            OutputLockedError: Another run has locked the output.
            OutputError: The output cannot be written at the start, or its ledger is damaged.
            RootGoneError: The folder disappeared in a run with ``max_passes``.
            WorkersLostError: No worker started, or answers in a run with ``max_passes``.
        """
        folders = watch_folders(job, self)
        if self.executor == "ray":
            job = self._with_workers(job)
        started_s = time.monotonic()
        try:
            with sighup_ignored(), locked(job.output), logged(job.output / "run.log") as log:
                report, device = self._locked(job, folders, log)
        except OutputLockedError:
            if self.on_lock == "skip":
                return Report(0, job.output)
            raise
        if not job.config["quiet"]:
            elapsed_s = time.monotonic() - started_s
            print_summary(report, device, verbose=job.config["verbose"], elapsed_s=elapsed_s)
        return report

    def _locked(
        self, job: Job, folders: WatchFolders, log: Log
    ) -> tuple[Report, Mapping[str, Any]]:
        status = Status(job.output, metrics=True, metrics_port=self.metrics_port)
        with open_run(job, self.on_change, status) as opened, ExitStack() as stack:
            announce_loading(job)
            run = opened.start(load_model=True)
            loop = self._loop(job, folders, run, Tally(status, {"load": run.load_s}), log, stack)
            abort = _abort(loop)
            with signals_handled(loop.requests, loop.events.wake, abort, DRAIN_S):
                return loop.run(), run.device

    def _with_workers(self, job: Job) -> Job:
        return with_workers(job, self, lambda: self._pool(job))

    def _pool(self, job: Job) -> Pool:
        return opened_pool(job, self, isolate=True)

    def _loop(
        self,
        job: Job,
        folders: WatchFolders,
        run: StartedRun,
        tally: Tally,
        log: Log,
        stack: ExitStack,
    ) -> WatchLoop:
        """Build the loop; what it opens is closed by ``stack``."""
        schedule = Schedule(
            poll_s=self.poll_s, settle_s=self.settle_s, finalize_every_s=self.finalize_every_s
        )
        destinations = [folders.done, folders.failed] if self.after != "keep" else []
        inbox = Inbox(
            folders.root,
            schedule,
            ready=self.ready,
            marker=self.marker,
            ignore=self.ignore,
            refusal=kinds_of(job).refusal,
            recursive=job.config["source"].get("recursive", True),
            excluded=[job.output.resolve(), *destinations],
            follow=self.after == "keep",
        )
        excluded = [job.output, *destinations]
        events = Events(folders.root, events=self.events, excluded=excluded)
        stack.enter_context(events)
        messages = Messages(quiet=job.config["quiet"], clock=schedule.now)
        health = HealthIssues(tally.status, messages)
        requests = StopRequests()
        workers = None
        if isinstance(job.runnable, RemoteRunnable):
            workers = WatchWorkers(job, job.runnable, self, _reported(health))
        reader = nullcontext() if workers else file_reader(job, isolate_by_default=True)
        processing = Processing(
            job,
            self,
            schedule,
            run.ledger,
            tally,
            inbox,
            PostProcessing(
                self.after,
                folders.root,
                folders.done,
                folders.failed,
                marker=self.marker if self.ready == "marker" else None,
            ),
            stack.enter_context(reader),
            health,
            messages,
            requests,
            workers,
            workers.number if workers else 1,
        )
        return WatchLoop(
            self,
            schedule,
            processing,
            inbox,
            events,
            run.record,
            log,
            health,
            requests,
            messages,
        )


def _abort(loop: WatchLoop) -> Callable[[], None]:
    """Return what makes the work in progress end, because it may hang."""
    processing = loop.processing
    if isinstance(processing.executor, WatchWorkers):
        return processing.executor.stop
    if isinstance(processing.reader, DecodeWorkers):
        return processing.reader.close
    return loop.events.wake


def _reported(health: HealthIssues) -> Callable[[str | None], None]:
    def notify(text: str | None) -> None:
        if text is None:
            health.resolve("workers")
        else:
            health.report("workers", PipelineError(text))

    return notify
