"""The message of an interrupted run: the number of kept results and the command to resume."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from pipeline.redaction import redacted
from pipeline.system.descriptors import open_to_read


def describe_kept(output: Path) -> str:
    """Return how many results of whichever run the output holds: ``312 results are kept in out``.

    Empty if no run has started there.
    """
    try:
        with open_to_read(output / "run.json") as file:
            done = int(json.load(file)["totals"].get("done", 0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""
    return f"{done} result{' is' if done == 1 else 's are'} kept in {short(output)}"


def resume_command(command: Sequence[str], output: Path) -> str:
    """Return the command line that continues a run, quoted for a shell and without secrets.

    Args:
        command: The command line of the run.
        output: The run directory, or the directory of the sweep; added to the command if it was a
            default.
    """
    words = list(command)
    if not any(word.lstrip("+").startswith("output=") for word in words):
        words.append(f"output={short(output)}")
    return shlex.join(redacted(words))


def short(path: Path) -> str:
    """Return a path relative to the working directory if it is below that."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
