"""The executor that hands chunks of assets to workers, and survives the loss of any of them."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from pipeline.errors import DeviceLostError, PipelineError, WorkersLostError
from pipeline.job import Job, Outcome
from pipeline.protocols import Asset
from runners.cluster.failure import Failure
from runners.ray.chunks import Chunk, Chunks
from runners.ray.failing import poisoned
from runners.ray.handle import Handle, Kind
from runners.ray.options import WorkerOptions
from runners.ray.pool import Call, Pool, Processed, Started, WorkerLost
from runners.rundir.remote.current import mirror_of
from runners.rundir.settings import differences

_log = logging.getLogger("d2run")

_AHEAD = 2  # chunks per worker: one in progress, one that waits for it
_TRIES = 3  # workers that one asset may cost, as for processes that decode
_TICK_S = 0.5
_PING_S = 2.0
_RETRY_S = 2.0  # until a lost worker is called again
_NOTICE_S = 30.0  # without any worker


class ActorExecutor:
    """Hands chunks to workers, and returns the outcomes as they arrive.

    Every output of an asset has a name of its own and the same bytes whoever writes it, so it does
    not matter whether a worker that was lost had written some: the chunk is processed again. Each
    asset of that chunk is then a suspect, which has a worker to itself. One that costs three more
    workers has failed.

    Attributes:
        n_lost: How often a worker was lost.
        n_again: How many assets were handed out again because of that.

    Args:
        job: The job, its runnable entered; its sinks are entered before ``run``.
        pool: The workers, of which one has been started.
        options: How long to wait for workers, and how much one gets at once.
        settings: Those of the run; by default the job's. A worker with others gets no work.
        notify: Called with a message when no worker has answered for a while, and with ``None``
            when one has again.
    """

    def __init__(
        self,
        job: Job,
        pool: Pool,
        options: WorkerOptions,
        settings: Mapping[str, Any] | None = None,
        notify: Callable[[str | None], None] = lambda text: None,
    ) -> None:
        self._job, self._pool, self._options, self._notify = job, pool, options, notify
        self._settings = settings or job.settings()
        self._workers = [Handle(number) for number in pool.workers()]
        self._calls: dict[Call, tuple[Handle, Kind]] = {}
        self._returned: deque[Outcome] = deque()
        self._reason: PipelineError | None = None  # why the last worker was dismissed
        self._alone_s = 0.0  # since when no worker is ready
        self._is_noticed = self._is_stopped = False
        self.n_lost = self.n_again = 0
        self._warnings: list[str] = []

    @property
    def warnings(self) -> list[str]:
        """What to tell the user at the end."""
        if not self.n_lost:
            return self._warnings
        lost = "a worker was lost" if self.n_lost == 1 else f"workers were lost {self.n_lost} times"
        again = "1 input was" if self.n_again == 1 else f"{self.n_again} inputs were"
        return [*self._warnings, f"{lost}; {again} processed again"]

    def stop(self) -> None:
        """End ``run`` soon, without the outcomes of what is in progress; on any thread."""
        self._is_stopped = True

    def run(self, assets: Iterable[Asset]) -> Generator[Outcome, None, None]:
        """Yield the outcomes in the order in which they arrive. Can be repeated.

        Raises:
            OutputError: The output can no longer be written.
            WorkersLostError: None has answered for ``wait_s``.
            PipelineError: No worker is left.
        """
        size = self._settings["device"]["batch_size"] or self._job.config["batch_size"]
        chunks = Chunks(
            assets,
            max_assets=self._options.chunk,
            max_bytes=self._options.chunk_mb * 1_000_000,
            multiple=size if isinstance(size, int) else 1,
        )
        self._alone_s = time.monotonic()
        for worker in self._workers:  # one that was idle may have died: it is started again
            worker.is_ready = False
        try:
            while not self._is_stopped:
                self._start_workers()
                self._hand_out(chunks)
                if not any(worker.queue for worker in self._workers) and chunks.is_empty():
                    break
                self._check_workers(chunks)
                for call in self._pool.wait(list(self._calls), _TICK_S):
                    self._answered(call, chunks)
                while self._returned:
                    yield self._returned.popleft()
        finally:
            self._discard(chunks)

    def _start_workers(self) -> None:
        now_s = time.monotonic()
        for worker in self._workers:
            idle = not (worker.is_ready or worker.is_dismissed or worker.start)
            if idle and worker.start_at_s <= now_s:
                worker.start = self._pool.start(worker.number)
                self._calls[worker.start] = worker, "start"
        if any(worker.is_ready for worker in self._workers):
            self._alone_s = now_s
            self._note_alone(None)
        elif self._reason and all(worker.is_dismissed for worker in self._workers):
            raise self._reason
        elif now_s - self._alone_s > self._options.wait_s:
            raise WorkersLostError(
                f"no worker has answered for {self._options.wait_s:g} s (runner.wait_s); what is "
                "committed is kept"
            )
        elif now_s - self._alone_s > _NOTICE_S:
            self._note_alone(f"no worker has answered for {_NOTICE_S:g} s")

    def _hand_out(self, chunks: Chunks) -> None:
        ready = [worker for worker in self._workers if worker.is_ready]
        for depth in range(_AHEAD):  # first those that have nothing to do
            for worker in ready:
                has_suspect = any(chunk.is_suspect for _, chunk in worker.queue)
                if len(worker.queue) != depth or has_suspect:
                    continue
                chunk = chunks.next(can_be_suspect=not worker.queue)
                if chunk is None:
                    continue
                if not worker.queue:
                    worker.moved_s = time.monotonic()
                isolate = chunk.is_suspect
                call = self._pool.process(worker.number, chunk.assets, isolate=isolate)
                worker.queue.append((call, chunk))
                self._calls[call] = worker, "process"

    def _check_workers(self, chunks: Chunks) -> None:
        """Ask the busy workers for progress; replace those that make none."""
        now_s = time.monotonic()
        for worker in self._workers:
            if not worker.queue:
                continue
            if now_s - worker.moved_s > self._options.stall_s:
                stalled = f"made no progress for {self._options.stall_s:g} s (raise runner.stall_s)"
                self._lose(worker, chunks, stalled)
            elif worker.ping is None and now_s - worker.pinged_s > _PING_S:
                worker.pinged_s = now_s
                worker.ping = self._pool.progress(worker.number)
                self._calls[worker.ping] = worker, "progress"

    def _answered(self, call: Call, chunks: Chunks) -> None:
        if call not in self._calls:
            return  # of a worker that was lost meanwhile
        worker, kind = self._calls.pop(call)
        try:
            answer = self._pool.result(call)
        except WorkerLost as exc:
            if kind == "progress":  # the other calls say whether it is lost
                worker.ping = None
            elif kind == "process":
                self._calls[call] = worker, kind
                self._lose(worker, chunks, str(exc))
            else:
                worker.start, worker.start_at_s = None, time.monotonic() + _RETRY_S
            return
        if kind == "start":
            worker.start = None
            self._note_started(worker, answer)
        elif kind == "progress":
            worker.ping = None
            if answer != worker.steps:
                worker.steps, worker.moved_s = answer, time.monotonic()
        else:
            self._note_processed(worker, call, answer, chunks)

    def _note_started(self, worker: Handle, answer: Started | Failure) -> None:
        if isinstance(answer, Started):
            changed = differences(self._settings, answer.settings)
            if not changed:
                worker.is_ready = True
                return
            what = f"the worker on {answer.host} computes with other settings"
            self._reason = PipelineError(f"{what} ({'; '.join(changed)})")
        else:
            self._reason = answer.error()
        worker.is_dismissed = True
        self._warn(f"one worker fewer: {self._reason}")

    def _note_processed(
        self, worker: Handle, call: Call, answer: Processed | Failure, chunks: Chunks
    ) -> None:
        if isinstance(answer, Failure) and issubclass(answer.kind, DeviceLostError):
            self._calls[call] = worker, "process"
            self._lose(worker, chunks, f"lost its device ({answer.message})")
            return
        if isinstance(answer, Failure):
            raise answer.error()
        chunk = next(chunk for each, chunk in worker.queue if each == call)
        worker.queue.remove((call, chunk))
        worker.moved_s = time.monotonic()
        if not chunk.is_suspect:
            chunks.timed(len(chunk.assets), answer.seconds)
        self._receive(answer)

    def _receive(self, answer: Processed) -> None:
        if (mirror := mirror_of(self._job.output)) is not None:
            mirror.fetch(answer.changes)
        self._returned.extend(answer.outcomes)

    def _lose(self, worker: Handle, chunks: Chunks, reason: str) -> None:
        """Replace a worker's process, and hand its chunks out again, as suspects."""
        self.n_lost += 1
        again: list[Chunk] = []
        for call, chunk in self._replace(worker):  # not to write beside who repeats its work
            if (done := self._result_of(call)) is not None:
                self._receive(done)  # it had answered before
            else:
                again += self._suspected(chunk, reason)
        self.n_again += sum(len(chunk.assets) for chunk in again)
        chunks.give_back(again)
        _log.warning("worker %d %s", worker.number, reason)

    def _replace(self, worker: Handle) -> list[tuple[Call, Chunk]]:
        """Replace a worker's process; return the chunks that it had."""
        worker.is_ready, worker.start, worker.ping = False, None, None
        worker.start_at_s = time.monotonic()
        queue, worker.queue = list(worker.queue), deque()
        for call in [call for call, (each, _) in self._calls.items() if each is worker]:
            del self._calls[call]
        self._pool.restart(worker.number)
        return queue

    def _result_of(self, call: Call) -> Processed | None:
        with suppress(WorkerLost):
            if self._pool.wait([call], 0):
                answer = self._pool.result(call)
                return answer if isinstance(answer, Processed) else None
        return None

    def _suspected(self, chunk: Chunk, reason: str) -> list[Chunk]:
        """Return what to do of a chunk with which a worker was lost; nothing if it has failed."""
        if not chunk.is_suspect:
            return chunk.divided()
        chunk.n_lost += 1
        if chunk.n_lost < _TRIES:
            return [chunk]
        (asset,) = chunk.assets
        self._returned.append(poisoned(self._job, asset, f"its worker {reason}", _TRIES))
        return []

    def _discard(self, chunks: Chunks) -> None:
        """Leave nothing of assets whose outcome nobody has received."""
        left = [*self._unreceived(), *chunks.given_back]
        for worker in self._workers:
            if worker.queue:
                self._replace(worker)  # or it would write on
        for outcome in self._returned:
            outcome.records.close()
        self._returned.clear()
        for asset in left:
            for sink in self._job.sinks.values():
                with suppress(Exception):
                    sink.discard(asset)

    def _unreceived(self) -> Iterator[Asset]:
        yield from (outcome.asset for outcome in self._returned)
        for worker in self._workers:
            for _, chunk in worker.queue:
                yield from chunk.assets

    def _note_alone(self, text: str | None) -> None:
        if self._is_noticed != (text is not None):
            self._is_noticed = text is not None
            _log.warning("%s", text or "a worker has answered again")
            self._notify(text)

    def _warn(self, text: str) -> None:
        _log.warning("%s", text)
        if text not in self._warnings:
            self._warnings.append(text)
