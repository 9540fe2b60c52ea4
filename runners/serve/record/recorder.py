"""Records answers, on a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread

from pipeline.errors import AssetError, DecodeError, OutputError
from pipeline.job import Job
from pipeline.protocols import Asset
from pipeline.records import Frame
from pipeline.sources import ImageAsset
from pipeline.sources.decode.image import kind_of
from pipeline.sources.scan import IMAGES as SUFFIXES
from pipeline.system.os_errors import describe_os_error
from pipeline.system.output_folder import OutputFolder
from runners.reporting.status import Status
from runners.reporting.tally import Tally, totals
from runners.rundir.commit import Group, Hooks, Session, finish, is_finished
from runners.rundir.opening import StartedRun
from runners.rundir.owned.aggregates import build_reports
from runners.rundir.translation import output_errors
from runners.serve.metrics import Metrics
from runners.serve.record.answered import Answered, AnsweredExecutor
from runners.serve.traffic import Traffic
from runners.serve.uploads import Answer

IMAGES = "images"  # the directory of images, in the run directory
_MAX_WAIT_S = 1.0  # that an answer waits until it is recorded
_RETRY_S = 10.0
_STOP_S = 30.0


class Recorder(Hooks):
    """Records answers on a thread of its own, with the files and the commits of a batch.

    The images are an input in the run directory, so that a batch over it can continue the record.
    An answer is never lost because recording fails: it waits for a second at most, and while the
    directory cannot be written, answers are counted and not recorded.

    Args:
        job: The job; its source is the directory of images.
        run: The run directory, open.
        status: The monitoring files of the run directory.
        max_waiting: Answers that may wait to be recorded.

    Attributes:
        exit_status: The exit status that ``run.json`` gets if no error ends the service.
    """

    def __init__(self, job: Job, run: StartedRun, status: Status, max_waiting: int) -> None:
        self.job, self.exit_status = job, 0
        self._run, self._status, self._max_waiting = run, status, max_waiting
        self._tally = Tally(status, {"load": run.load_s})
        self._images = OutputFolder(job.output)
        self._queue: SimpleQueue[Answered | None] = SimpleQueue()
        self._given: dict[str, Answered] = {}  # in the session, by asset id
        self._stopping = Event()
        self._problem = ""  # why the last answers were not recorded
        self._is_pausing = False  # after an error
        self._is_slow = False
        self._too_slow = f"requests are not recorded: {job.output} is too slow"
        self._session: Session | None = None
        self._thread = Thread(target=self._work, name="record", daemon=True)

    def start(self, traffic: Traffic, metrics: Metrics) -> None:
        """Open the files and start to record.

        Args:
            traffic: Reports what prevents recording.
            metrics: Counts answers that are recorded and those that are not.

        Raises:
            OutputError: The output cannot be written.
        """
        self._traffic, self._metrics = traffic, metrics
        self._run.record.start()
        self._session = self._opened()
        self._status.update(state="running")
        self._thread.start()

    def stop(self, exit_status: int, message: str = "") -> None:
        """Record what waits, and complete the run directory as far as it can be written."""
        if not self._thread.ident:
            return
        self._stopping.set()
        self._queue.put(None)
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            self._traffic.report("the record is incomplete: its disk does not respond")
            return
        try:
            has_changed = bool(self._tally.counts) or not is_finished(self.job, self._run.ledger)
            if has_changed:
                finish(self.job, self._run.ledger)
            report = self._tally.report(self.job.output, exit_status, message)
            self._run.record.finish(replace(report, totals=totals(self._run.ledger.counts())))
            if has_changed:
                build_reports(self.job, self._run.ledger)
        except (OSError, OutputError) as exc:
            self._traffic.report(f"the record is incomplete: {exc}")

    async def record(self, path: Path, answer: Answer | AssetError, frame: Frame | None) -> None:
        """Record an answer; return once it is durable, but after a second at the latest.

        Called on the thread of the event loop.

        Args:
            path: The image as it was received; it may be removed afterwards.
            answer: The answer, or the error of the image.
            frame: The image; ``None`` if it was not decoded.
        """
        is_full = self._queue.qsize() + len(self._given) >= self._max_waiting
        if is_full:
            self._traffic.report(self._too_slow)
        if is_full or self._is_pausing:
            self._metrics.count_recorded("lost")
            return
        try:
            answered = Answered(path.open("rb"), answer, frame)
        except OSError as exc:
            self._traffic.report(f"requests are not recorded: {describe_os_error(exc)}")
            self._metrics.count_recorded("lost")
            return
        self._queue.put(answered)
        if not self._is_slow:
            over = asyncio.wrap_future(answered.is_over)
            self._is_slow = not (await asyncio.wait([over], timeout=_MAX_WAIT_S))[0]

    def committing(self, group: Group) -> None:
        """Make the names of the images durable before the ledger refers to them."""
        with output_errors(self.job.output):
            self._images.sync()

    def committed(self, group: Group) -> None:
        """Count what is recorded, and release the answers that wait."""
        for entry, outcome in group:
            self._tally.add(outcome)
            self._given.pop(entry.id).release()
        self._metrics.count_recorded("written", len(group))
        if self._queue.empty():
            self._is_slow = False
            self._traffic.resolve(self._too_slow)
        problem, self._problem = self._problem, ""
        self._traffic.resolve(problem)

    def _work(self) -> None:
        """Record until stopped; after an error, try again a moment later."""
        while True:
            try:
                self._session = self._session or self._opened()
                for _ in self._session.process(self._assets()):
                    if self._queue.empty():
                        self._session.commit()
                self._close()
                return
            except Exception as exc:  # a custom sink may raise anything; requests are still served
                self._give_up(exc)
            if self._stopping.wait(_RETRY_S):
                return
            self._is_pausing = False

    def _opened(self) -> Session:
        return Session(
            self.job, self._run.ledger, hooks=self, executor=AnsweredExecutor(self.job, self._given)
        ).__enter__()

    def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.__exit__(None, None, None)

    def _give_up(self, error: Exception) -> None:
        """Release what is not committed: it will not be recorded."""
        self._is_pausing = True
        self._problem = f"requests are not recorded: {error}"
        self._traffic.report(self._problem)
        with suppress(OSError, OutputError):
            self._close()
        with suppress(OutputError):
            self._run.ledger.rollback()
        for asset_id in self._given:
            with suppress(OSError, OutputError):
                self._images.remove(f"{IMAGES}/{asset_id}")
        lost = [*self._given.values(), *self._queued()]
        self._given.clear()
        for answered in lost:
            answered.release()
        self._metrics.count_recorded("lost", len(lost))

    def _queued(self) -> Iterator[Answered]:
        with suppress(Empty):
            while True:
                if (answered := self._queue.get_nowait()) is not None:
                    yield answered

    def _assets(self) -> Iterator[tuple[Asset, int]]:
        """Write the image of each answer; yield it as an asset, and its place."""
        place = self._run.ledger.next_place()
        options = {"exif": self.job.config["exif"]}
        options["max_pixels"] = self.job.config["source"]["max_pixels"]
        while (answered := self._queue.get()) is not None:
            data = answered.file.read()
            asset_id = _new_name(place, data)
            self._given[asset_id] = answered
            with output_errors(self.job.output):
                self._images.write(f"{IMAGES}/{asset_id}", data)
            asset = ImageAsset(asset_id, self.job.output / IMAGES / asset_id, **options)
            error = answered.answer
            if not isinstance(error, DecodeError) or error.version is not None:
                asset.fingerprint()  # as when a batch has read the file
            yield asset, place
            place += 1


def _new_name(place: int, data: bytes) -> str:
    """Return the name of an image: time (UTC) and place, so that names sort as they arrive."""
    suffix = f".{kind_of(data[:16])}".lower().replace("jpeg", "jpg")
    if suffix not in SUFFIXES:
        suffix = ".jpg"  # by which a batch lists it, and reports that it is no image
    return f"{datetime.now(timezone.utc):%Y-%m-%d/%H-%M-%S}-{place:06d}{suffix}"
