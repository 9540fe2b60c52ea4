"""The model of a finished run, as far as its record describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import ConfigError
from pipeline.recorded.run import RecordedRun
from pipeline.records import Categories

_OWN = ("name", "run", "trust", "verify")  # keys that change nothing


class RecordedModel:
    """The classes of a finished run's model; without weights, so it cannot be loaded.

    Args:
        run: The run directory.
        options: The other options of ``model``, none of which may be set.

    Raises:
        ConfigError: There is no run, or an option is set.
    """

    def __init__(self, run: str, options: Mapping[str, Any]) -> None:
        given = [key for key, value in options.items() if value not in (None, [], {}, False)]
        if problems := [key for key in given if key not in _OWN]:
            raise ConfigError(
                *(
                    f"model.{key}: the model of a finished run cannot be changed. Remove it"
                    for key in problems
                )
            )
        self._run = RecordedRun(run)

    @property
    def categories(self) -> Categories:
        """The classes that the model distinguishes."""
        return self._run.categories

    def check(self) -> None:
        """Check that the run recorded its classes.

        Raises:
            ConfigError: It did not.
        """
        _ = self.categories

    def identity(self) -> dict[str, Any]:
        """Return what distinguishes the model and the settings of the run from any other."""
        return self._run.model

    def load(self, device: str) -> tuple[Any, Any]:
        """Refuse to load: there are no weights.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("model=recorded has no weights; choose another model, or runnable=replay")
