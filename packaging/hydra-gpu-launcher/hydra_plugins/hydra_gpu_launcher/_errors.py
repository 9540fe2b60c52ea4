"""The errors of the launcher. Hydra prints them as one line, without a traceback."""

from __future__ import annotations

from hydra.errors import CompactHydraException


class LauncherError(CompactHydraException):
    """The sweep cannot start: an option is wrong, or a GPU does not exist."""


class JobFailedError(CompactHydraException):
    """A job raised an exception, died, or was not started. ``__cause__`` is what it raised."""
