from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from command_line import ROOT

WAITS = """
import sys, threading
from runners.watch.signals import StopRequests, sighup_ignored, signals_handled
event, aborted, requests = threading.Event(), threading.Event(), StopRequests()
with sighup_ignored():
    print("loading", flush=True)
    sys.stdin.readline()
    with signals_handled(requests, lambda: None, aborted.set, float(sys.argv[1])):
        print("ready", flush=True)
        while not requests.stop and not requests.refresh:
            event.wait(0.01)
        print(requests.exit_status, requests.refresh, aborted.wait(0.5), flush=True)
        sys.stdin.readline()
"""


@pytest.mark.parametrize(
    ("number", "abort_after_s", "printed", "second"),
    [
        (signal.SIGTERM, 60, "0 False False", signal.SIGTERM),
        (signal.SIGINT, 60, "130 False False", signal.SIGTERM),
        (signal.SIGTERM, 0.01, "0 False True", signal.SIGINT),
        (signal.SIGHUP, 60, "None True False", None),
    ],
)
def test_signals(number: int, abort_after_s: float, printed: str, second: int | None) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(abort_after_s)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGHUP)  # while the model is being loaded: ignored
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == printed + "\n"
        if second is None:
            process.stdin.close()
        else:
            process.send_signal(second)  # at once, whatever is still being done
    assert process.returncode == (0 if second is None else 128 + second)
