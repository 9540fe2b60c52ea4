"""Prints single lines to the terminal: escaped, and without secrets."""

from __future__ import annotations

import sys

from pipeline.errors import printable
from pipeline.redaction import redacted_text


def print_stdout(text: str) -> None:
    """Print one line on standard output."""
    print(printable(redacted_text(text)), flush=True)


def print_stderr(text: str) -> None:
    """Print one line on standard error."""
    print(printable(redacted_text(text)), file=sys.stderr, flush=True)
