"""``runner=save``: saves the model that ``model=`` describes to the store."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.job import Job, Report
from pipeline.protocols import SavableModel, Warns
from pipeline.system.terminal import print_stderr, print_stdout


@dataclass
class Save:
    """Loads the model on the CPU, checks that the weights fit, and saves it under its name."""

    def run(self, job: Job) -> Report:
        """Save the model and print its tag.

        Raises:
            ConfigError: This kind of model cannot be saved.
            StoreError: The weights are unavailable or do not fit, or the store cannot be written.
        """
        model = job.model
        for warning in model.warnings if isinstance(model, Warns) else ():
            print_stderr(f"warning: {warning}")
        if not isinstance(model, SavableModel):
            raise ConfigError(f"a {type(model).__name__} cannot be saved to the store")
        stored = model.save()
        print_stdout(f"saved {stored.tag} in {stored.path}")
        return Report(exit_status=0)
