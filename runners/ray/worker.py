"""What runs in the process of a worker: a job with a model of its own. No Ray here."""

from __future__ import annotations

import pickle
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any

from pipeline.engine.local import LocalExecutor
from pipeline.errors import PipelineError
from pipeline.job import Job, Outcome
from pipeline.protocols import Asset, Durable, ReadableAsset, supports
from runners.cluster.building import built_here
from runners.cluster.failure import Failure
from runners.cluster.traits import Traits
from runners.ray.pool import Processed, Started
from runners.rundir.readers import file_reader, isolated_reader
from runners.rundir.remote.current import uploading
from runners.rundir.remote.uploads import Mark, Uploads
from runners.todo import fetched_ahead

CONTROL = "control"


class _Ticket:
    """A chunk that the worker has received.

    Args:
        assets: The assets.
        isolate: Whether to decode them in processes of their own.
    """

    def __init__(self, assets: Sequence[Asset], isolate: bool) -> None:
        self.assets, self.isolate = assets, isolate
        self.answer: Future[bytes | Failure] = Future()
        self.started_s = 0.0
        self.outcomes: list[Outcome] = []
        self._own_readers: dict[str, Any] = {}

    def opened(self, reader: Any) -> Iterator[Asset]:
        """Yield the assets, to be read by a reader; by themselves if it is ``None``."""
        self.started_s = time.monotonic()
        for asset, _ in fetched_ahead((asset, 0) for asset in self.assets):
            if reader is not None and supports(asset, ReadableAsset):
                self._own_readers[asset.id] = asset.reader
                asset.reader = reader
            yield asset

    def add(self, outcome: Outcome) -> bool:
        """Add the next outcome; return whether it was the last."""
        asset = outcome.asset
        if asset.id in self._own_readers and supports(asset, ReadableAsset):
            asset.reader = self._own_readers[asset.id]  # processes cannot be sent
        self.outcomes.append(outcome)
        return len(self.outcomes) == len(self.assets)


class Worker:
    """Processes chunks of assets; the process is killed when it is no longer needed.

    A chunk that arrives while another is in progress joins it in the pipeline, so that the device
    does not wait for the next one to be decoded.

    Args:
        config: The resolved configuration of the job, with the device of workers.
        directory: The working directory of the run: paths are relative to it.
        decode_threads: Number of assets to decode at the same time if the job does not say.
        is_alone: Whether all cores of the machine are for this worker. It then computes with as
            many threads as ``runner=batch``, which the last digits depend on.
        isolate: Whether ``decode.isolation=auto`` means that it decodes in processes of their own.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        directory: str,
        decode_threads: int,
        is_alone: bool = False,
        isolate: bool = False,
    ) -> None:
        self._config, self._directory = config, directory
        self._decode_threads, self._is_alone = decode_threads, is_alone
        self._isolate = isolate
        self._starting = Lock()
        self._open = ExitStack()
        self._job: Job | None = None
        self._reader: Any = None
        self._isolated: Any = None
        self._uploads: Uploads | None = None
        self._tickets: SimpleQueue[_Ticket | None] = SimpleQueue()
        self._completed_s = 0.0
        self._steps = 0

    def start(self) -> Started | Failure:
        """Build the job and load its model, unless that is done."""
        try:
            with self._starting:
                if self._job is None:
                    self._job = self._started()
                    work = Thread(target=self._work, args=(self._job,), name="work", daemon=True)
                    work.start()
        except PipelineError as exc:
            return Failure.of(exc)
        traits = Traits.of(self._job.runnable, entered=True)
        return Started(socket.gethostname(), self._job.settings(), traits)

    def process(self, pickled: bytes, isolate: bool) -> bytes | Failure | None:
        """Process assets, and make their outputs durable.

        Args:
            pickled: The assets.
            isolate: Whether to decode them in processes of their own.

        Returns:
            ``Processed``, pickled; ``None`` if this process was never started: it has replaced the
            one that was.
        """
        if self._job is None:
            return None
        ticket = _Ticket(pickle.loads(pickled), isolate)
        self._tickets.put(ticket)
        return ticket.answer.result()

    def progress(self) -> int:
        """Return the number of steps so far; it grows while the worker works."""
        return self._steps

    def close(self) -> None:
        """Close what is open, if the process goes on without the worker."""
        self._tickets.put(None)
        self._open.close()

    def _started(self) -> Job:
        job = built_here(self._config, self._directory, self._decode_threads, self._is_alone)
        with ExitStack() as stack:
            if job.address is not None:
                self._uploads = stack.enter_context(uploading(job))
            stack.enter_context(job.runnable)
            self._reader = stack.enter_context(file_reader(job, isolate_by_default=self._isolate))
            for sink in job.sinks.values():
                stack.enter_context(sink)
            self._open = stack.pop_all()
        return job

    def _work(self, job: Job) -> None:
        while (ticket := self._tickets.get()) is not None:
            self._run(job, ticket)

    def _run(self, job: Job, first: _Ticket) -> None:
        """Process a chunk, and those that arrive meanwhile."""
        tickets: deque[_Ticket] = deque()
        try:
            for outcome in LocalExecutor(job, on_forward=self._step).run(self._fed(first, tickets)):
                self._step()
                if tickets[0].add(outcome):  # outcomes come in input order
                    for sink in job.sinks.values():
                        if isinstance(sink, Durable):
                            sink.sync()
                    changes = self._uploads.flush() if self._uploads is not None else {}
                    self._answer(tickets.popleft(), changes)
        except PipelineError as exc:
            for ticket in tickets:
                ticket.answer.set_result(Failure.of(exc))
        except BaseException as exc:
            for ticket in tickets:
                ticket.answer.set_exception(exc)

    def _fed(self, first: _Ticket, tickets: deque[_Ticket]) -> Iterator[Asset]:
        ticket: _Ticket | None = first
        while ticket is not None:
            tickets.append(ticket)
            for asset in ticket.opened(self._isolated_reader() if ticket.isolate else self._reader):
                self._step()
                yield asset
            try:
                ticket = self._tickets.get_nowait()
            except Empty:
                return

    def _answer(self, ticket: _Ticket, changes: Mapping[str, Mark | None]) -> None:
        since_s, self._completed_s = max(ticket.started_s, self._completed_s), time.monotonic()
        processed = Processed(ticket.outcomes, self._completed_s - since_s, changes)
        ticket.answer.set_result(pickle.dumps(processed))

    def _isolated_reader(self) -> Any:
        if self._isolated is None and self._job is not None:
            self._isolated = self._open.enter_context(isolated_reader(self._job))
        return self._isolated or self._reader

    def _step(self, *_: object) -> None:
        self._steps += 1


# what ``ray.method(concurrency_group=...)`` does; not there, because ``ray://`` loses that
vars(Worker)["progress"].__ray_concurrency_group__ = CONTROL
