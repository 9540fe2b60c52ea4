"""What a service counts, in Prometheus' text format; names as those of ``runner=watch``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pipeline.errors import AssetError
from pipeline.job import Job, Outcome
from pipeline.protocols import PlacedRunnable
from pipeline.system.versions import VERSION

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_FRAMES = (1, 2, 4, 8, 16, 32)


def device_of(job: Job) -> str:
    """Return the device of a job's runnable; empty if it has none."""
    return job.runnable.device if isinstance(job.runnable, PlacedRunnable) else ""


class Metrics:
    """Counters and gauges of one service. Can be called on any thread.

    Labels have few values: routes are templates, classes are those of the model.

    Args:
        replicas: The job on each device, its runnable entered.
        in_flight: Returns the number of images that wait or are in progress.
        is_ready: Returns whether requests are accepted.
    """

    def __init__(
        self, replicas: Sequence[Job], in_flight: Callable[[], float], is_ready: Callable[[], bool]
    ) -> None:
        self._registry = CollectorRegistry()  # without the metrics of other libraries
        registry = self._registry
        self._requests = Counter(
            "d2run_requests",
            "Requests by route and status; 499: the client left before the answer.",
            ["route", "status"],
            registry=registry,
        )
        self._latency = Histogram(
            "d2run_request_seconds",
            "Seconds from a request's headers to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_sizes = Histogram(
            "d2run_batch_size", "Images per forward.", buckets=_FRAMES, registry=registry
        )
        self._inputs = Counter("d2run_inputs", "Images by outcome.", ["outcome"], registry=registry)
        self._instances = Counter(
            "d2run_instances", "Instances found, by class.", ["class"], registry=registry
        )
        self._seconds = Counter(
            "d2run_seconds",
            "Seconds spent by step; the steps overlap.",
            ["step"],
            registry=registry,
        )
        for outcome in ("done", "failed"):
            self._inputs.labels(outcome)
        self._recorded = Counter(
            "d2run_recorded",
            "Answers that runner.record has written, and those that were lost to it.",
            ["outcome"],
            registry=registry,
        )
        in_flight_gauge = Gauge(
            "d2run_in_flight", "Images that wait or are in progress.", registry=registry
        )
        in_flight_gauge.set_function(in_flight)
        healthy = Gauge("d2run_healthy", "1 if requests are accepted, else 0.", registry=registry)
        healthy.set_function(is_ready)
        self._describe(replicas)

    def _describe(self, replicas: Sequence[Job]) -> None:
        job = replicas[0]
        registry, identity = self._registry, job.model.identity()
        build = Gauge("d2run_build_info", "Version of d2run.", ["version"], registry=registry)
        build.labels(VERSION).set(1)
        names = ("name", "tag", "digest")
        self._values = [identity.get(name) or "" for name in names]
        self._model = Gauge("d2run_model_info", "The model.", [*names, "device"], registry=registry)
        self.set_devices(map(device_of, replicas))
        started = Gauge(
            "d2run_start_timestamp_seconds", "When the service started.", registry=registry
        )
        started.set(job.started)

    def set_devices(self, devices: Iterable[str]) -> None:
        """Set the devices that have the model."""
        self._model.clear()
        for device in devices:
            self._model.labels(*self._values, device).set(1)

    def add_gauge(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Add a gauge that calls a function."""
        Gauge(name, description, registry=self._registry).set_function(value)

    def render(self) -> bytes:
        """Return the metrics."""
        return generate_latest(self._registry)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that has ended.

        Args:
            route: The template of its path, such as ``/v2/models/{name}/infer``.
            status: The status of the answer.
            seconds: How long it took.
        """
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def count_forward(self, n_frames: int, seconds: float) -> None:
        """Count a forward; ``Pipeline.on_forward``."""
        self._batch_sizes.observe(n_frames)

    def count_outcome(self, outcome: Outcome) -> None:
        """Count an image that went through the engine."""
        # images are decoded before the engine
        seconds = {k: s for k, s in outcome.timings.items() if k not in ("waiting", "decode")}
        self.count_input("failed" if outcome.error else "done", outcome.detections, seconds)

    def count_input(
        self, outcome: str, detections: Mapping[str, int], seconds: Mapping[str, float]
    ) -> None:
        """Count an image.

        Args:
            outcome: ``done`` or ``failed``.
            detections: Instances by class.
            seconds: Seconds by step.
        """
        self._inputs.labels(outcome).inc()
        for name, number in detections.items():
            self._instances.labels(name).inc(number)
        self.count_seconds(seconds)

    def count_seconds(self, seconds: Mapping[str, float]) -> None:
        """Count seconds by step."""
        for step, spent_s in seconds.items():
            self._seconds.labels(step).inc(spent_s)

    def count_recorded(self, outcome: Literal["written", "lost"], number: int = 1) -> None:
        """Count answers that ``runner.record`` has written, or could not write."""
        self._recorded.labels(outcome).inc(number)

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Count the seconds of the block, which decodes an image, and whether it fails."""
        started = time.perf_counter()
        try:
            yield
        except AssetError:
            self.count_input("failed", {}, {})
            raise
        finally:
            self.count_seconds({"decode": time.perf_counter() - started})
