"""kill -9 with an output in an object store: continued on the same machine, or on another one."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import shelf
from dying import ended, forked
from forking import warm
from scenarios import make_inputs, outputs, run_scenario, tell
from shelf import Shelf, objects

HIDDEN = {".lock", ".remote.json"}


def settings(folder: Path, machine: int) -> None:
    """Become a machine: each has a home of its own; they share the store."""
    os.environ["D2RUN_HOME"] = str(folder / f"machine {machine}")


def command(folder: Path, n: int) -> list[str]:
    return [*make_inputs(folder / "in", n), "sink=[coco,overlay,crops]", "runner.checkpoint_s=0.05"]


def check_checkpoint(bucket: Path) -> int:
    """Check that all that the checkpoint's ledger names is there; return the number of inputs."""
    path = bucket / ".d2run/checkpoint.json"
    if not path.exists():
        return 0
    checkpoint = json.loads(path.read_bytes())
    journal = b"".join((bucket / each["name"]).read_bytes() for each in checkpoint["journal"])
    ledger = bucket / checkpoint["ledger"]["name"]
    with sqlite3.connect(f"file:{ledger}?mode=ro&immutable=1", uri=True) as db:
        rows = db.execute("SELECT id, start, length FROM entries WHERE outcome = 'done'").fetchall()
    db.close()
    for asset, start, length in rows:
        name = os.fsdecode(asset)
        line = journal[start : start + length]
        assert json.loads(line.partition(b"\n")[0])["asset"] == name
        assert (bucket / f"overlay/{name}.jpg").is_file(), name
    return len(rows)


def check_end(folder: Path, bucket: Path, machine: int, whole: dict[str, bytes]) -> None:
    """Compare the copy with the run directory of that machine, and with that of a plain run."""
    (local,) = (folder / f"machine {machine}/outputs").glob(f"*{bucket.name}-*")
    assert outputs(bucket) == outputs(local) == whole
    there = {name for name in objects(bucket) if not name.startswith(".d2run/")}
    assert there == objects(local).keys() - HIDDEN
    manifests = [each / "manifest.sha256" for each in (bucket, folder / "whole")]
    assert manifests[0].read_bytes() == manifests[1].read_bytes()


def scenario_random(folder: Path, n: int, deaths: int) -> None:
    """Die at any moment; continue here or elsewhere."""
    arguments = command(folder, n)
    assert ended(forked([*arguments, f"output={folder}/whole"]), 300) == 3
    settings(folder, 9)
    began = time.monotonic()
    assert ended(forked([*arguments, "output=shelf://bucket/first"]), 300) == 3
    takes_s = time.monotonic() - began
    whole = outputs(folder / "whole")
    rng, machine, number, kept = random.Random(7), 0, 0, 0
    met = Counter[str]()
    while met["deaths"] < deaths:
        bucket = folder / f"shelf/bucket/night{number}"
        settings(folder, machine)
        child = forked([*arguments, f"output=shelf://bucket/{bucket.name}"])
        time.sleep(rng.uniform(0, takes_s / 3))
        os.kill(child, signal.SIGKILL)
        status = ended(child, 300)
        assert status in (3, -signal.SIGKILL)
        met["deaths"] += status == -signal.SIGKILL
        now = check_checkpoint(bucket)
        assert now >= kept
        kept = now
        if status == 3 or met["deaths"] == deaths:
            if status != 3:
                assert ended(forked([*arguments, f"output=shelf://bucket/{bucket.name}"]), 300) == 3
            check_end(folder, bucket, machine, whole)
            number, kept = number + 1, 0
        elif rng.random() < 0.5:
            machine = (machine + 1) % 3
            met["moves"] += 1
    tell(f"{met['deaths']} deaths, {met['moves']} moves")


def scenario_requests(folder: Path, n: int, every: int) -> None:
    """Die before each request to the store, of a run that adds to an earlier one."""
    arguments = command(folder, n)
    assert ended(forked([*arguments, f"output={folder}/whole"]), 300) == 3
    whole, met = outputs(folder / "whole"), Counter[str]()
    late = sorted((folder / "in/0").glob("?.png"))[::2]
    for number in range(1, 1000, every):
        bucket, address = folder / f"shelf/bucket/{number}", f"output=shelf://bucket/{number}"
        for path in late:
            path.rename(folder / path.name)
        settings(folder, number)
        assert ended(forked([*arguments, address])) == 3
        for path in late:
            (folder / path.name).rename(path)
        status = ended(forked([*arguments, address], lambda k=number: arm(k)))  # type: ignore[misc]
        if status == 3:
            break
        assert status == -signal.SIGKILL
        met["deaths"] += 1
        check_checkpoint(bucket)
        machine = number + 10_000 * (met["deaths"] % 2)
        settings(folder, machine)
        assert ended(forked([*arguments, address])) == 3
        check_end(folder, bucket, machine, whole)
    tell(f"{met['deaths']} deaths")


def arm(k: int) -> None:
    """Die before the k-th request."""
    left = k

    def fault(what: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    Shelf.fault = fault


@pytest.mark.timeout(300)
def test_killed_at_any_moment(tmp_path: Path) -> None:
    assert "2 deaths" in run_scenario(__file__, tmp_path, "random", 40, 2)


@pytest.mark.timeout(300)
def test_killed_before_some_requests(tmp_path: Path) -> None:
    assert int(run_scenario(__file__, tmp_path, "requests", 4, 13).split()[0]) >= 3


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_killed_at_any_moment_many_times(tmp_path: Path) -> None:
    assert "60 deaths" in run_scenario(__file__, tmp_path, "random", 1500, 60)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_killed_before_every_request(tmp_path: Path) -> None:
    assert int(run_scenario(__file__, tmp_path, "requests", 6, 1).split()[0]) >= 40


SCENARIOS = {"random": scenario_random, "requests": scenario_requests}

if __name__ == "__main__":
    warm("fsspec", "fsspec.implementations.local", "pipeline.sinks.crops")
    os.environ["SHELF"] = str(Path(sys.argv[2]) / "shelf")
    Path(os.environ["SHELF"]).mkdir()
    shelf.register()
    SCENARIOS[sys.argv[1]](Path(sys.argv[2]), *json.loads(sys.argv[3]))
