"""The model on one device: a queue of decoded images, and the thread that works it off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread

from pipeline.encoding import encode
from pipeline.engine import Pipeline
from pipeline.job import Job
from runners.serve.metrics import Metrics
from runners.serve.uploads import Answer, Answers, Upload


class Engine:
    """Runs decoded images through the model and stages of a job, as a batch does.

    Args:
        job: The job, its runnable entered.
        max_wait_s: Seconds that an image may wait for others to share its forward.
        metrics: Counts forwards and outcomes.
        fail: Called, on any thread, with the error that ended the engine, before the images that
            it has not finished are refused.
        refusal: Returns the error that those images get.

    Attributes:
        in_flight: Number of images that wait or are in progress; of the event loop's thread.
        ended: Done when the engine has ended.
    """

    def __init__(
        self,
        job: Job,
        max_wait_s: float,
        metrics: Metrics,
        fail: Callable[[BaseException], None],
        refusal: Callable[[], Exception],
    ) -> None:
        self.in_flight = 0
        self.ended: Future[None] = Future()
        self._metrics, self._fail, self._refusal = metrics, fail, refusal
        self._pipeline = Pipeline(
            job.runnable,
            job.stages,
            {"answers": Answers()},
            encode=encode,
            max_wait_s=max_wait_s,
            on_forward=metrics.count_forward,
            **{key: job.config[key] for key in ("batch_size", "decode_threads", "queue_mb")},
        )
        self._queue: SimpleQueue[Upload | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Accept no more images; those in the queue are finished. Can be repeated."""
        self._queue.put(None)

    def join(self, timeout_s: float | None) -> None:
        """Wait for the thread."""
        self._thread.join(timeout_s)

    async def answer(self, upload: Upload) -> Answer:
        """Return the answer to an image.

        Raises:
            AssetError: The model or a stage fails on the image.
            RequestError: The engine has ended.
        """
        self.in_flight += 1
        try:
            self._queue.put(upload)
            if self.ended.done():  # nobody may have seen it
                self._refuse_queued()
            return await asyncio.wrap_future(upload.answer)
        finally:
            self.in_flight -= 1

    def _work(self) -> None:
        in_engine: dict[int, Upload] = {}
        try:
            for outcome in self._pipeline.run(self._uploads(in_engine)):
                self._metrics.count_outcome(outcome)
                in_engine.pop(id(outcome.asset)).resolve(outcome)
        except BaseException as exc:
            self._fail(exc)
        for upload in in_engine.values():
            upload.refuse(self._refusal())
        self.ended.set_result(None)
        self._refuse_queued()

    def _uploads(self, in_engine: dict[int, Upload]) -> Iterator[Upload]:
        while (upload := self._queue.get()) is not None:
            if not upload.answer.cancelled():
                in_engine[id(upload)] = upload
                yield upload

    def _refuse_queued(self) -> None:
        with suppress(Empty):
            while True:
                if (upload := self._queue.get_nowait()) is not None:
                    upload.refuse(self._refusal())
