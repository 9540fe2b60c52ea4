"""Errors that are sent from one process to another."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError, PipelineError


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that a worker returns instead of an answer; each error class can be sent so."""

    kind: type[PipelineError]
    message: str
    exit_status: int = 1

    @classmethod
    def of(cls, error: PipelineError) -> Failure:
        """Describe an error."""
        return cls(type(error), str(error), error.exit_status)

    def error(self) -> PipelineError:
        """Return the error."""
        error = self.kind.__new__(self.kind, self.message)  # constructors differ
        error.exit_status = self.exit_status
        if isinstance(error, ConfigError):
            error.problems = (self.message,)
        return error
