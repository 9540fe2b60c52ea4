from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from command_line import ROOT

WAITS = """
import sys, threading
from runners.watch.signals import hang_up_ignored, heeded
event, late = threading.Event(), threading.Event()
with hang_up_ignored():
    print("loading", flush=True)
    sys.stdin.readline()
    with heeded(lambda: None, late.set, float(sys.argv[1])) as wishes:
        print("ready", flush=True)
        while wishes.status is None and not wishes.anew:
            event.wait(0.01)
        print(wishes.status, wishes.anew, late.wait(0.5), flush=True)
        sys.stdin.readline()
"""


@pytest.mark.parametrize(
    ("number", "late_s", "told", "second"),
    [
        (signal.SIGTERM, 60, "0 False False", signal.SIGTERM),
        (signal.SIGINT, 60, "130 False False", signal.SIGTERM),
        (signal.SIGTERM, 0.01, "0 False True", signal.SIGINT),
        (signal.SIGHUP, 60, "None True False", None),
    ],
)
def test_signals(number: int, late_s: float, told: str, second: int | None) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(late_s)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGHUP)  # while the model is loaded: nobody dies of it
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == told + "\n"
        if second is None:
            process.stdin.close()
        else:
            process.send_signal(second)  # at once, whatever is still being done
    assert process.returncode == (0 if second is None else 128 + second)
