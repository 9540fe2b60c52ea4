"""The executor that runs a job on threads of this process."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

from pipeline.encoding import encode
from pipeline.engine import Pipeline
from pipeline.engine.device import OnForward
from pipeline.job import Job, Outcome
from pipeline.protocols import Asset, LiveSource

_LIVE_WAIT_S = 1.0


class LocalExecutor:
    """Runs a job's pipeline in this process; outcomes come in input order.

    Args:
        job: The job; its runnable and sinks are entered before ``run``.
        on_forward: As for ``Pipeline``.
    """

    def __init__(self, job: Job, on_forward: OnForward | None = None) -> None:
        options: dict[str, Any] = {
            key: job.config[key] for key in ("batch_size", "decode_threads", "queue_mb")
        }
        if isinstance(job.source, LiveSource):  # a frame must not wait for a stream that pauses
            options["max_wait_s"] = _LIVE_WAIT_S
        self._pipeline = Pipeline(
            job.runnable,
            job.stages,
            job.sinks,
            encode=encode,
            spool_dir=job.output,
            on_forward=on_forward,
            **options,
        )

    def run(self, assets: Iterable[Asset]) -> Generator[Outcome, None, None]:
        """Yield each asset's outcome, with its encoded lines.

        Raises:
            OutputError: The output can no longer be written.
        """
        return self._pipeline.run(assets)
