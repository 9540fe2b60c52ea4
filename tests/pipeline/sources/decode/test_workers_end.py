"""The end of decoding in worker processes: no process remains, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import children, state, wait_for

from pipeline.sources.decode.reading import Reading
from pipeline.sources.decode.workers import DecodeWorkers, DecodingStopped

ROOT = Path(__file__).resolve().parents[4]
FAILING = [sys.executable, str(ROOT / "tests/support/failing_decoder.py")]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def written(path: Path, content: str) -> Path:
    path.write_bytes(os.fsencode(content))
    return path


def read(workers: DecodeWorkers, path: Path) -> Reading:
    return workers(path, exif=True, max_pixels=99)


def test_closing_frees_whoever_waits(tmp_path: Path) -> None:
    path = written(tmp_path / "x", "fault:hang")
    with ThreadPoolExecutor(3) as threads:
        with DecodeWorkers(1, memory_mb=64, timeout_s=3600, command=FAILING) as workers:
            waiting = [threads.submit(read, workers, path) for _ in range(3)]
            time.sleep(0.1)  # one with the worker, two without; any other order must do as well
        errors = [future.exception(timeout=60) for future in waiting]
    assert {type(error) for error in errors} == {DecodingStopped}
    with pytest.raises(DecodingStopped):
        read(workers, path)


PARENT = f"""
import os, signal, sys, threading, time
from pathlib import Path
from pipeline.sources.decode.workers import DecodeWorkers
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
workers = DecodeWorkers(2, memory_mb=64, timeout_s=3600, command={FAILING!r})
end, path = sys.argv[1], Path(sys.argv[2])
decode = lambda: workers(path, exif=True, max_pixels=99)
if end == "with":
    with workers:
        threading.Thread(target=decode, daemon=True).start()
        print("ready", flush=True)
        decode()
workers.__enter__()
threading.Thread(target=decode, daemon=True).start()
print("ready", flush=True)
sys.stdin.readline()
if end == "_exit":
    os._exit(0)
raise SystemExit(0)
"""


@pytest.mark.parametrize(
    ("how", "number"),
    [
        pytest.param("_exit", None, id="exit-at-once"),
        pytest.param("exit", None, id="exit-without-leaving"),
        pytest.param("wait", signal.SIGKILL, id="killed"),
        pytest.param("wait", signal.SIGTERM, id="terminated"),
        pytest.param("with", signal.SIGINT, id="ctrl-c"),
    ],
)
@pytest.mark.parametrize("fault", ["hang", "wait"])
def test_the_parents_end_is_its_workers_end(
    tmp_path: Path, fault: str, how: str, number: int | None
) -> None:
    path = written(tmp_path / "x", f"fault:{fault} {tmp_path}/never")
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, how, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as parent:  # fmt: skip
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stderr is not None
        assert parent.stdout.readline() == "ready\n"
        wait_for((tmp_path / "never.tried").exists)
        workers = children(parent.pid)
        assert workers
        if number:
            parent.send_signal(number)
        else:
            parent.stdin.write("\n")
            parent.stdin.flush()
        said = parent.stderr.read()
        status = parent.wait(60)
    # a zombie is for init to collect, which containers lack
    wait_for(lambda: all(state(pid)[0] in "XZ" for pid in workers))
    if how == "with":
        assert "KeyboardInterrupt" in said
        assert all(state(pid)[0] == "X" for pid in workers)
    else:
        assert (status, said) == (-number if number else 0, "")
