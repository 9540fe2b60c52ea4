"""A model behind a queue: images of requests in, answers out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from copy import copy
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.engine import default_decode_threads
from pipeline.errors import AssetError, DecodeError, DeviceLostError, PoisonError
from pipeline.job import Job
from pipeline.records import Frame
from pipeline.sinks.overlay import Overlay
from pipeline.sources.decode.reading import Reader, max_bytes, read_image
from pipeline.sources.decode.workers import DecodingStopped
from runners.rundir.readers import file_reader
from runners.serve.engine import Engine
from runners.serve.errors import RequestError
from runners.serve.metrics import Metrics, device_of
from runners.serve.options import ServeOptions
from runners.serve.pace import Pace
from runners.serve.record.recorder import Recorder
from runners.serve.traffic import Traffic
from runners.serve.uploads import Answer, Upload


class Service:
    """Runs the images of requests through a job's model and stages.

    An image is decoded first, in a separate process by default, and joins the queue of the engine
    only then, so a file that takes long to decode delays no other. The engine is the one of a
    batch; each device has one, and an image joins the shortest queue. Methods are called on the
    thread of the event loop, unless they say otherwise.

    Args:
        job: The job, its runnable entered.
        options: How much it accepts.
        recorder: Records answers; ``None`` to keep none.
        others: The same job on other devices, their runnables entered.
        metrics: Makes the metrics; arguments as those of ``Metrics``.
        traffic: Counts requests and reports errors; by default on standard error.

    Attributes:
        is_draining: Whether the service is stopping: it answers what has reached it.
        failure: The error that ended an engine, and with it the service.
        directory: A private directory for the bodies of requests.
        overlay: Draws answers, with the options of the job's sink if it has one.
        traffic: Counts requests and reports errors.
        metrics: Counts what it does.
        replicas: The job on each device.
    """

    forward = None  # the routes have the model

    def __init__(
        self,
        job: Job,
        options: ServeOptions,
        recorder: Recorder | None = None,
        others: Sequence[Job] = (),
        *,
        metrics: Callable[..., Metrics] = Metrics,
        traffic: Traffic | None = None,
    ) -> None:
        self.job, self.options, self._recorder = job, options, recorder
        self.replicas = (job, *others)
        self._pace = Pace()
        self.is_draining = False
        self.failure: BaseException | None = None
        self.ended: Future[None] = Future()  # when all engines have
        self.metrics = metrics(self.replicas, lambda: self.in_flight, lambda: self.state == "ok")
        max_wait_s = options.max_wait_ms / 1000
        self._engines = [
            Engine(each, max_wait_s, self.metrics, self._fail, self._unavailable)
            for each in self.replicas
        ]
        self._n_ended = count(1)  # its ``next`` is atomic
        for engine in self._engines:
            engine.ended.add_done_callback(self._count_ended)
        self._stack = ExitStack()
        self._read: Reader = read_image
        self.directory = Path()
        self.traffic = traffic or Traffic(quiet=job.config["quiet"])
        drawing = job.sinks.get("overlay")
        # a copy, because the recorder opens and closes the sink
        self.overlay = copy(drawing) if isinstance(drawing, Overlay) else Overlay("overlay")
        self.overlay.check(job.model.categories)

    def __enter__(self) -> Service:
        """Start the decoders and the engine.

        Raises:
            PipelineError: A decoding process does not start.
            OutputError: The recorder cannot write.
        """
        if self._recorder is not None:
            self._recorder.start(self.traffic, self.metrics)
        with ExitStack() as stack:
            n_decoders = self.job.config["decode_threads"] or default_decode_threads()
            reader = stack.enter_context(file_reader(self.job, isolate_by_default=True))
            self._read = reader or read_image
            stack.enter_context(self.overlay)
            self.directory = Path(stack.enter_context(TemporaryDirectory(prefix="d2run-")))
            self._decoders = ThreadPoolExecutor(n_decoders, "decode-request")
            stack.callback(self._decoders.shutdown, wait=False, cancel_futures=True)
            for engine in self._engines:
                engine.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop; requests that still wait get an error."""
        for engine in self._engines:
            engine.stop()
        for engine in self._engines:
            engine.join(0.5 if exc_info[0] else None)
        self._stack.close()

    @property
    def in_flight(self) -> int:
        """Number of images that wait or are in progress."""
        return self._pace.in_flight

    @property
    def devices(self) -> list[str]:
        """The devices, if there are several."""
        return [device_of(each) for each in self.replicas] if len(self.replicas) > 1 else []

    @property
    def state(self) -> str:
        """``ok``, or why no new requests should be sent here, in one word."""
        if self.failure is not None:
            return "failed"
        return "stopping" if self.is_draining else "ok"

    async def predict_all(self, images: Sequence[tuple[Path, str]]) -> list[Answer | AssetError]:
        """Return the answer to each image of a request, in order, or its error.

        Args:
            images: Files, each with the name that the client gave it.

        Raises:
            RequestError: The service has no room for all of them, or has failed.
        """
        self.check_room(len(images))
        with self._pace.counted(len(images)):
            tasks = [asyncio.ensure_future(self._answer(*image)) for image in images]
            try:
                return list(await asyncio.gather(*tasks))
            except BaseException:  # the client is gone, or one of them was refused
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                raise

    def check_room(self, n_images: int = 1) -> None:
        """Check that there is room for so many more images.

        Raises:
            RequestError: There is none, or the service has failed.
        """
        if self.failure is not None:
            raise self._unavailable()
        limit = self.options.max_queue
        if n_images > limit:
            raise RequestError(413, f"{n_images} images are more than runner.max_queue={limit}")
        if self.in_flight + n_images > limit:
            raise RequestError(
                429,
                f"{self.in_flight} images are in progress, the limit is runner.max_queue={limit}; "
                "try again later",
                retry_after_s=self._pace.retry_after_s,
            )

    async def _answer(self, path: Path, name: str) -> Answer | AssetError:
        loop = asyncio.get_running_loop()
        frame: Frame | None = None
        answer: Answer | AssetError
        try:
            upload = await loop.run_in_executor(self._decoders, self._counted, path, name)
            frame = upload.frame
            engine = min(self._engines, key=lambda each: each.in_flight)
            answer = await engine.answer(upload)
        except AssetError as exc:
            answer = exc
        if self._recorder is not None:
            await self._recorder.record(path, answer, frame)
        return answer

    def _unavailable(self) -> RequestError:
        return RequestError(503, "the model has failed; the service is stopping", retry_after_s=1)

    def _counted(self, path: Path, name: str) -> Upload:
        """Decode an image, on a thread of ``_decoders``."""
        with self.metrics.decoding():
            return self._decoded(path, name)

    def _decoded(self, path: Path, name: str) -> Upload:
        max_pixels, exif = self.job.config["source"]["max_pixels"], self.job.config["exif"]
        try:
            return Upload.of(name, self._read(path, exif=exif, max_pixels=max_pixels))
        except DecodeError as exc:
            exc.asset_id = name
            if exc.version is None and not isinstance(exc, PoisonError):  # it was never read
                with suppress(OSError):
                    if path.stat().st_size > max_bytes(max_pixels):
                        raise
                self.traffic.report(f"an image was not decoded: {exc}")
                raise RequestError(503, f"the service cannot decode images: {exc}", 10) from exc
            raise
        except DecodingStopped:
            raise RequestError(503, "the service has stopped") from None
        except DeviceLostError as exc:  # decode.jpeg=nvjpeg
            self._fail(exc)
            raise self._unavailable() from exc

    def _count_ended(self, _: Future[None]) -> None:
        if next(self._n_ended) == len(self._engines):
            self.ended.set_result(None)

    def _fail(self, error: BaseException) -> None:
        """Remember the first error that ended the service, and end the engines."""
        self.failure = self.failure or error
        for engine in self._engines:
            engine.stop()
