"""A run's status in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline.errors import ConfigError
from pipeline.system.versions import VERSION
from pipeline.validation import check_whole

if TYPE_CHECKING:
    from runners.reporting.status import Status

_HOST = "127.0.0.1"  # for access from elsewhere, put a proxy with authentication in front


def renderer(status: Status) -> Callable[[], bytes]:
    """Return a function that renders the current metrics."""
    return partial(generate_latest, _registry(status))


@contextmanager
def served(status: Status, port: int) -> Iterator[int]:
    """Serve the metrics on 127.0.0.1 while the block runs; yields the port.

    Raises:
        ConfigError: The port is not valid or not free.
    """
    check_whole("runner.metrics_port", port, 0, 65535)
    try:
        server, thread = start_http_server(port, _HOST, _registry(status))
    except OSError as exc:
        raise ConfigError(
            f"runner.metrics_port: cannot listen on {_HOST}:{port} ({exc.strerror}); choose a free "
            "port"
        ) from exc
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _registry(status: Status) -> CollectorRegistry:
    registry = CollectorRegistry()  # without the metrics of the process and other libraries
    registry.register(_Collector(status))
    return registry


@dataclass(frozen=True)
class _Collector(Collector):
    status: Status

    def collect(self) -> Iterator[Metric]:
        with self.status.lock:
            yield from list(_families(self.status))


def _families(status: Status) -> Iterator[Metric]:
    labelled = GaugeMetricFamily("d2run_build_info", "Version of d2run.", labels=["version"])
    labelled.add_metric([VERSION], 1)
    yield labelled
    inputs = CounterMetricFamily("d2run_inputs", "Inputs by outcome.", labels=["outcome"])
    for outcome, n in ({"done": 0, "failed": 0} | status.counts).items():
        inputs.add_metric([outcome], n)
    yield inputs
    yield CounterMetricFamily("d2run_instances", "Instances written.", value=status.instances)
    seconds = CounterMetricFamily(
        "d2run_seconds", "Seconds spent by step; the steps overlap.", labels=["step"]
    )
    for step, spent in status.seconds.items():
        seconds.add_metric([step], spent)
    yield seconds
    committed = status.last_commit
    gauges: dict[str, tuple[str, float | None]] = {
        "pending": ("Files that are not complete yet or wait to be processed.", status.pending),
        "healthy": ("1 if the run can process inputs, else 0.", status.healthy),
        "start_timestamp_seconds": ("When the run started.", status.started.timestamp()),
        "last_commit_timestamp_seconds": (
            "When an input's outcome was last committed.",
            None if committed is None else committed.timestamp(),
        ),
    }
    for name, (text, value) in gauges.items():
        if value is not None:
            yield GaugeMetricFamily(f"d2run_{name}", text, value=value)
