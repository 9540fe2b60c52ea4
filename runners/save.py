"""Put the model that ``model=`` describes into the store."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import Job
from pipeline.types import Report


@dataclass
class Save:
    """Loads the model on the CPU, checks that the weights fit, and saves it under its name."""

    def run(self, job: Job) -> Report:
        """Carry out the job; prints the tag.

        Raises:
            StoreError: The weights cannot be had, do not fit, or the store cannot be written.
        """
        from pipeline.store.model import save_model

        stored = save_model(job.model, job.store)
        print(f"saved {stored.tag} in {stored.path}", flush=True)
        return Report(exit_status=0)
