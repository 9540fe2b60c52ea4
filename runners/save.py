"""Put the model that ``model=`` describes into the store."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import Job
from pipeline.types import Report
from runners.console import say, tell


@dataclass
class Save:
    """Loads the model on the CPU, checks that the weights fit, and saves it under its name."""

    def run(self, job: Job) -> Report:
        """Carry out the job; prints the tag.

        Raises:
            StoreError: The weights cannot be had, do not fit, or the store cannot be written.
        """
        for warning in job.model.warnings:
            say(f"warning: {warning}")
        stored = job.model.save()
        tell(f"saved {stored.tag} in {stored.path}")
        return Report(exit_status=0)
