"""The errors that d2run raises on purpose.

``str(error)`` is one line that says what is wrong and, where possible, what to do.

```
PipelineError                  base of all errors
├── ConfigError                a bad value or combination, found before any work
│   └── DeviceError            the device does not exist; lists those that do
├── OutputLockedError          another run has locked the output directory
├── StoreError                 the model store, or a weight file
│   ├── ModelNotFoundError
│   ├── ModelExistsError
│   ├── ModelCorruptError      a digest, a key or a shape differs
│   └── UntrustedModelError    loading it would execute code
├── DeviceLostError            the device failed permanently during the run
├── WorkersLostError           no worker of a cluster has answered for some time
├── OutputError                the output cannot be written at all (disk full, read-only)
│   └── LedgerDamagedError     the ledger cannot be trusted; says how to rebuild it
├── RootGoneError              the watched folder is currently missing or unreadable
├── AssetError                 one input failed
│   ├── DecodeError
│   │   ├── PartialError       a part of it cannot be decoded; the other frames are kept
│   │   └── PoisonError        each attempt killed its worker process or exceeded its limits
│   ├── InferenceError
│   ├── StageError
│   └── SinkError
└── JobError                   a run ended early or with failures
```
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class PipelineError(Exception):
    """Base of every error that d2run raises on purpose."""

    exit_status = 1


class ConfigError(PipelineError):
    """A bad value or combination in the configuration, found before any work.

    Attributes:
        problems: All problems that were found, one sentence each.
    """

    exit_status = 2

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


class DeviceError(ConfigError):
    """The requested device does not exist; the message lists those that do."""


class DeviceLostError(PipelineError):
    """The device failed during the run and cannot be used again in this process."""


class WorkersLostError(PipelineError):
    """No worker has answered for some time; the cluster may be gone."""


class OutputLockedError(PipelineError):
    """Another run has locked the output directory."""

    exit_status = 11


class StoreError(PipelineError):
    """The model store or a weight file cannot provide what was requested."""


class ModelNotFoundError(StoreError):
    """No model has this tag.

    Attributes:
        tag: The requested tag.
        known: The tags in the store.
    """

    def __init__(self, tag: str, known: Sequence[str], where: str) -> None:
        self.tag = tag
        self.known = tuple(known)
        super().__init__(f"no model '{tag}' in {where}{did_you_mean(tag, known)}")


class ModelExistsError(StoreError):
    """The store already holds this name and version."""


class ModelCorruptError(StoreError):
    """A stored file differs from its digest, or weights do not fit the model."""


class UntrustedModelError(StoreError):
    """Loading this file would execute code that the file contains."""


class OutputError(PipelineError):
    """The output cannot be written at all: disk full, read-only, no permission."""


class LedgerDamagedError(OutputError):
    """The ledger of an output cannot be trusted; the message says how to rebuild it."""

    def __init__(self, path: object, what: str) -> None:
        super().__init__(
            f"the ledger '{path}' is damaged ({what}); run the same command with runner=repair, "
            "which rebuilds it from predictions.jsonl, or with runner.on_change=restart to start "
            "from scratch"
        )


class RootGoneError(PipelineError):
    """The watched folder is missing or unreadable; the recorded state of its files is kept."""


class AssetError(PipelineError):
    """One input failed; the run continues with the others.

    Attributes:
        asset_id: The input that failed.
        step: The step that failed: ``decode``, ``inference``, or the name of a stage or sink.
        attempts: Number of attempts.
        trace: The traceback, for the log. It is text because a traceback object would keep the
            variables of the failed calls, such as the image, in memory.
    """

    default_step = ""
    trace = ""

    def __init__(
        self, message: str, *, asset_id: str = "", step: str = "", attempts: int = 1
    ) -> None:
        self.asset_id = asset_id
        self.step = step or self.default_step
        self.attempts = attempts
        super().__init__(message)


class DecodeError(AssetError):
    """The input cannot be read as an image.

    Attributes:
        version: Size in bytes, mtime in ns and SHA-256 of the file; ``None`` if it could not be
            read.
    """

    default_step = "decode"
    version: tuple[int, int, str] | None = None


class PartialError(DecodeError):
    """A part of the input cannot be decoded. The frames that were yielded are valid, and kept.

    Raised after the last frame, for example for a video whose end is missing. The input is done,
    and listed among the failures all the same. Without any frame, it fails.
    """


class PoisonError(DecodeError):
    """Each attempt killed its worker process or exceeded its limits; the input is not retried."""


class InferenceError(AssetError):
    """The model failed on this input alone."""

    default_step = "inference"


class StageError(AssetError):
    """A stage raised on this input."""


class SinkError(AssetError):
    """A sink could not write this input's output."""


class JobError(PipelineError):
    """A run ended early or with failures; the message says how many, where, and what to do."""

    def __init__(self, message: str, *, exit_status: int = 1) -> None:
        self.exit_status = exit_status
        super().__init__(message)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, else the known words.

    The result can be appended to a message as it is. Without known words, it is empty.
    """
    choices = list(known)
    near = difflib.get_close_matches(word, choices, n=3, cutoff=0.6)
    if near:
        return "; did you mean " + " or ".join(f"'{name}'" for name in near) + "?"
    if not choices:
        return ""
    shown = ", ".join(choices[:20]) + (", ..." if len(choices) > 20 else "")
    return f"; known: {shown}"


def printable(text: str) -> str:
    """Escape text to a single line and truncate it to 4000 characters."""
    return escaped(text)[:4000]


def escaped(text: str) -> str:
    """Escape non-printable characters.

    These are, for example, control and bidirectional characters and undecodable bytes.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
