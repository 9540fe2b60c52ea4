"""A command of d2run that dies at a named point of its work, and one that forks many such.

The points are put into the code from here: what users run knows nothing of them.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Wrapped = Callable[..., Any]


def _places() -> dict[str, tuple[Any, str]]:
    """What can be died at: before it, after it."""
    from pipeline.sinks.coco import CocoJson
    from pipeline.system.output_folder import OutputFolder
    from runners.rundir import commit as session
    from runners.rundir import input_order as results
    from runners.rundir import lists
    from runners.rundir.journal import Journal
    from runners.rundir.ledger.ledger import Ledger
    from runners.rundir.record import Record

    return {
        "picture": (OutputFolder, "write"),
        "fsync": (os, "fsync"),
        "rename": (os, "replace"),
        "append": (Journal, "append"),
        "sync": (Journal, "sync"),
        "put": (Ledger, "put"),
        "commit": (Ledger, "commit"),
        "set fact": (Ledger, "set_fact"),
        "order": (results, "put_in_order"),
        "end of order": (results, "finish_order"),
        "lists": (lists, "write_lists"),
        "aggregate": (CocoJson, "build"),
        "finish": (session, "finish"),
        "record": (Record, "finish"),
        "truncate": (Journal, "__enter__"),
        "exit": (Journal, "__exit__"),
    }


POINTS = [
    f"{when} {what}"
    for what in (
        "picture", "fsync", "rename", "append", "sync", "put", "commit", "set fact", "order",
        "end of order", "lists", "aggregate", "finish", "record", "truncate", "exit",
    )
    for when in ("before", "after")
]  # fmt: skip
POINTS.append("half a line")


def arm(point: str, times: int) -> None:
    """Have this process killed at a point, when it comes there for the ``times``-th time."""
    left = times

    def reached() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if point == "half a line":
        _cut_lines(reached)
        return
    when, _, what = point.partition(" ")
    owner, name = _places()[what]
    original = getattr(owner, name)

    @functools.wraps(original)
    def dying(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            reached()
        value = original(*args, **kwargs)
        if when == "after":
            reached()
        return value

    setattr(owner, name, dying)
    if what == "finish":  # the runner has it under its own name
        import runners.batch.processing

        runners.batch.processing.finish = dying  # type: ignore[assignment]


def _cut_lines(reached: Callable[[], None]) -> None:
    """Die when a line is written, but only half of it has reached the file."""
    from runners.rundir.journal import Journal

    original = Journal.append

    def append(self: Any, *args: Any) -> None:
        start = self.position.size
        original(self, *args)
        os.truncate(self.path, (start + self.position.size) // 2)
        reached()
        raise AssertionError("half a line can be left only once")

    left = 4

    def later(self: Any, *args: Any) -> None:
        nonlocal left
        left -= 1
        (original if left else append)(self, *args)

    Journal.append = later  # type: ignore[method-assign]


def forked(arguments: list[str], prepare: Callable[[], None] = lambda: None) -> int:
    """Run a command in a fork of this process; return its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    if child := os.fork():
        return child
    status = 70
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        from runners.entry import main

        prepare()
        sys.argv = ["run.py", *arguments]
        status = main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def ended(child: int, timeout_s: float = 60) -> int:
    """Wait for a fork; return its exit status, negative for a signal."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError("the command hangs")


if __name__ == "__main__":  # dying.py POINT TIMES ARGUMENT...: a single command
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from runners.entry import main as run_main

    arm(sys.argv[1], int(sys.argv[2]))
    sys.argv = ["run.py", *sys.argv[3:]]
    sys.exit(run_main())
