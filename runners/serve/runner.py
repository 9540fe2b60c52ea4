"""``runner=serve``: answers requests over HTTP until stopped."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.job import Job, Report
from pipeline.protocols import LimitedRunnable, Warns
from pipeline.system.terminal import print_stderr
from runners.reporting.progress import announce_loading
from runners.serve.listening import listen
from runners.serve.options import ServeOptions
from runners.serve.record.directory import recorded
from runners.serve.record.recorder import Recorder
from runners.serve.service import Service
from runners.serve.signals import StopSignals

if TYPE_CHECKING:
    from runners.serve.http.serving import Serving

_EXTRA = {
    "fastapi": "fastapi",
    "fastapi_swagger": "fastapi-swagger",
    "python_multipart": "python-multipart",
    "uvicorn": "uvicorn",
}
_REPORT_S = 60.0


@dataclass(frozen=True)
class Serve(ServeOptions):
    """Answers requests with the model and stages of the job, until SIGTERM or SIGINT."""

    def run(self, job: Job) -> Report:
        """Serve; ends with status 0 after SIGTERM, when every accepted request is answered.

        Raises:
            ConfigError: The extra is not installed, the address is not available, there is an
                input or no model, or the device does not exist; nothing was started.
            StoreError: The weights are unavailable or do not fit the model.
            OutputError: ``record`` cannot be written, or is the output of another run.
            DeviceLostError: The device failed; the service has ended.
            PipelineError: The HTTP server failed.
        """
        _check_extra()
        if job.config["input"] is not None:
            raise ConfigError("input: runner=serve gets its images from requests; remove input")
        given = job.hydra_files.get("overrides.yaml", ())
        if self.record is None and any(each.startswith("output=") for each in given):
            raise ConfigError("output: runner=serve keeps results in runner.record=DIR only")
        if isinstance(job.runnable, LimitedRunnable):
            raise ConfigError("runnable=replay has no predictions for new images; choose a model")
        from runners.serve.http.server import HttpServer

        job, *others = self.jobs(job)
        listening = listen(self)
        with listening.socket, ExitStack() as stack:
            announce_loading(job)
            service, recorder = self._started(job, stack, others)
            for part in (job.model, service.job.runnable):
                for text in part.warnings if isinstance(part, Warns) else ():
                    print_stderr(f"warning: {text}")
            with (
                StopSignals() as stops,
                HttpServer(service, self, listening) as http,
            ):
                for ended in (service.ended, http.ended):
                    ended.add_done_callback(lambda _: stops.wake())
                if not job.config["quiet"]:
                    print_stderr(f"serving {listening.url} (stop with Ctrl-C)")
                while stops.exit_status is None and not (service.ended.done() or http.ended.done()):
                    if not stops.wait(_REPORT_S):
                        service.traffic.print_counts()
                service.is_draining = True
                http.stop()
                while not http.ended.done():
                    stops.wait(_REPORT_S)
                service.traffic.print_counts()
                http.ended.result()
            if service.failure is not None:
                raise service.failure
            exit_status = stops.exit_status or 0
            if recorder is not None:
                recorder.exit_status = exit_status
        return Report(exit_status)

    def _started(
        self, job: Job, stack: ExitStack, others: Sequence[Job]
    ) -> tuple[Serving, Recorder | None]:
        if self.address is not None:
            from runners.serve.replicas.deployment import Deployment
            from runners.serve.replicas.front import Front

            return stack.enter_context(Front(job, self, Deployment(job, self))), None
        recorder = self.load(job, stack, others)
        return stack.enter_context(Service(job, self, recorder, others)), recorder

    def load(self, job: Job, stack: ExitStack, others: Sequence[Job] = ()) -> Recorder | None:
        """Load the models and open what ``record`` names; ``stack`` closes all of it."""
        with warnings.catch_warnings():  # Detectron2 uses what torch has deprecated
            warnings.simplefilter("ignore", FutureWarning)
            if self.record is None:
                stack.enter_context(job.runnable)
            for other in others:
                stack.enter_context(other.runnable)
        return None if self.record is None else stack.enter_context(recorded(job, self.max_queue))

    def jobs(self, job: Job) -> list[Job]:
        """Return the job on each of ``devices``, with its own stages, because they keep state."""
        if self.devices is None:
            if self.address is not None and re.fullmatch(r"cuda:\d+", job.config["device"]):
                raise ConfigError(
                    f"device={job.config['device']}: each replica has a GPU of its own; write "
                    "device=cuda, and select GPUs with CUDA_VISIBLE_DEVICES"
                )
            return [job]
        if job.config["device"] != "auto":
            raise ConfigError("device: runner.devices names the devices; remove device")
        from pipeline.config.build import rebuild_job  # it imports Hydra

        rebuilt = [
            rebuild_job({**job.config, "device": each}, job.started) for each in self.devices
        ]
        return [replace(each, hydra_files=job.hydra_files) for each in rebuilt]


def _check_extra() -> None:
    if missing := [package for name, package in _EXTRA.items() if find_spec(name) is None]:
        raise ConfigError(
            f"runner=serve needs {', '.join(missing)}: install the extra with "
            "`uv sync --extra serve` or `pip install 'd2run[serve]'`"
        )
