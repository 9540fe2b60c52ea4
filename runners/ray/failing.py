"""An input that is given up because it costs worker after worker."""

from __future__ import annotations

from contextlib import suppress

from pipeline.errors import PipelineError, PoisonError
from pipeline.job import Job, Outcome
from pipeline.protocols import Asset


def poisoned(job: Job, asset: Asset, reason: str, attempts: int) -> Outcome:
    """Return the outcome of such an asset, and remove what its workers wrote.

    Args:
        job: The job; its sinks are entered.
        asset: The asset.
        reason: What happened to its workers.
        attempts: How many workers it cost.
    """
    for sink in job.sinks.values():
        with suppress(Exception):
            sink.discard(asset)
    with suppress(OSError, PipelineError):
        asset.fingerprint()  # it is not tried again while its content is the same
    what = f"{reason}, {attempts} times in a row"
    return Outcome(
        asset, error=PoisonError(what, asset_id=asset.id, step="inference", attempts=attempts)
    )
