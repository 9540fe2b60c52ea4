"""Opens the run directory in which requests are recorded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.job import Job
from pipeline.sources.images import Images
from pipeline.system.descriptors import names_in, open_directory, remove
from pipeline.system.files import remove_temporaries
from runners.reporting.log import logged
from runners.reporting.status import Status
from runners.rundir import in_flight
from runners.rundir.lock import locked
from runners.rundir.opening import open_run
from runners.rundir.owned.names import has_run
from runners.rundir.translation import output_errors
from runners.serve.record.recorder import IMAGES, Recorder


@contextmanager
def recorded(job: Job, max_waiting: int) -> Iterator[Recorder]:
    """Open the run directory of a job and load its model; complete the directory at the end.

    Args:
        job: The job; ``output`` is the directory.
        max_waiting: Answers that may wait to be recorded.

    Raises:
        ConfigError: The directory holds results of other settings or another input, or files of
            another program.
        OutputLockedError: Another run has locked it.
        OutputError: It cannot be written, or its ledger is damaged.
        StoreError: The weights are unavailable or do not fit the model.
    """
    images, source = job.output / IMAGES, job.config["source"]
    reading = {"exif": job.config["exif"], "max_pixels": source["max_pixels"]}
    job = replace(
        job,
        source=Images(str(images), **reading),
        config=job.config | {"input": str(images), "source": source | {"input": str(images)}},
    )
    with locked(job.output), logged(job.output / "run.log"):
        if names_in(images) and not has_run(job.output):
            raise ConfigError(
                f"runner.record: {job.output} holds {IMAGES}, which no run of d2run wrote; choose "
                "another directory"
            )
        try:
            with output_errors(job.output):
                os.close(open_directory(images, make=True))
            status = Status(job.output)
            with open_run(job, "error", status) as opened:
                _remove_leftovers(job.output)
                started = opened.start(load_model=True)
                recorder = Recorder(job, started, status, max_waiting)
                try:
                    yield recorder
                except BaseException as exc:
                    status_now = getattr(exc, "exit_status", 1)
                    recorder.stop(status_now, f"{type(exc).__name__}: {exc}")
                    raise
                recorder.stop(recorder.exit_status)
        except ConfigError:
            with suppress(OSError):  # it has images
                images.rmdir()
            raise


def _remove_leftovers(output: Path) -> None:
    """Remove what a killed service left: an incomplete image, and the list of those in flight."""
    with output_errors(output):
        for day in sorted(names_in(output / IMAGES))[-1:]:
            remove_temporaries(output / IMAGES / day)
        remove(output / in_flight.NAME)  # a recorder decodes nothing that could have killed it
