"""kill -9 at named points and at any moment: nothing lost, nothing twice, the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from dying import POINTS, arm, ended, forked
from forking import warm
from scenarios import make_inputs, outputs, packed, run_scenario, tell

from runners.rundir.commit import GROUP

IN_WORK = 12  # decoded ahead, in the model, waiting to be written


def committed(out: Path) -> int:
    """How many inputs the ledger names, after its journal has been played back."""
    ledger = out / "ledger.sqlite"
    if not ledger.exists() or not ledger.stat().st_size:
        return 0
    with sqlite3.connect(ledger) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        names = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
        number = db.execute("SELECT count(*) FROM entries").fetchone()[0] if names else 0
    db.close()
    return int(number)


# The script: everything below runs in a process of its own, which has imported all once and forks.


def scenario_points(folder: Path, n: int, times: list[int], kind: str = "", every: int = 1) -> None:
    """Die in a run that resumes an earlier one and has to restore the order of its files."""
    plain = make_inputs(folder / "in", n)
    away = folder / "away"
    late = [folder / "in" / f"{i // 50}" / f"{i}.png" for i in range(1, n, 2)]
    for path in late:
        away.mkdir(exist_ok=True)
        path.rename(away / path.name)
    arguments = packed(plain, folder / "in", kind)
    assert ended(forked([*arguments, f"output={folder}/half"])) == 3
    for path in late:
        (away / path.name).rename(path)
    arguments = packed(plain, folder / "in", kind)
    assert ended(forked([*arguments, f"output={folder}/whole"])) == 3
    whole = outputs(folder / "whole")
    if kind:  # an archive gives what its directory does
        assert ended(forked([*plain, f"output={folder}/unpacked"])) == 3
        assert outputs(folder / "unpacked") == whole
    met = Counter[str]()
    for point in POINTS[::every]:
        for at in times:
            out = folder / f"{point} {at}"
            shutil.copytree(folder / "half", out)
            command = [*arguments, f"output={out}"]
            status = ended(forked(command, lambda p=point, at=at: arm(p, at)))  # type: ignore[misc]
            met[point] += status == -signal.SIGKILL
            assert status in (3, -signal.SIGKILL), (point, at, status)
            if status == -signal.SIGKILL:
                before = committed(out)
                assert ended(forked(command)) == 3, (point, at)
                again = json.loads((out / "run.json").read_text())["counts"]
                assert again["done"] + again["failed"] <= n + 1 - before + 1, (point, at)
            assert outputs(out) == whole, (point, at)
            left = {path.name for path in out.rglob("*")} - {"run.log"}
            assert not [name for name in left if name.endswith((".part", ".ordered"))], left
    missed = [point for point in POINTS[::every] if not met[point]]
    assert not missed, missed
    tell(f"{sum(met.values())} deaths at {len(met)} points")


def scenario_random(folder: Path, n: int, kills: int, kind: str = "") -> None:
    arguments = packed(make_inputs(folder / "in", n), folder / "in", kind)
    began = time.monotonic()
    assert ended(forked([*arguments, f"output={folder}/whole"])) == 3
    takes_s = time.monotonic() - began
    whole = outputs(folder / "whole")
    rng, died, finished = random.Random(5), 0, 0
    out = folder / "killed 0"
    while died < kills:
        before = committed(out)  # a resume cuts off lines that were not committed
        child = forked([*arguments, f"output={out}"])
        time.sleep(rng.uniform(0, takes_s / 4))
        os.kill(child, signal.SIGKILL)
        status = ended(child)
        died += status == -signal.SIGKILL
        assert before <= committed(out) <= lines(out) <= committed(out) + GROUP + IN_WORK
        if status == 3:
            assert outputs(out) == whole
            finished += 1
            out = folder / f"killed {finished}"
    assert ended(forked([*arguments, f"output={out}"])) == 3
    assert outputs(out) == whole
    tell(f"{died} deaths, {finished + 1} runs brought to their end")


def lines(out: Path) -> int:
    path = out / "predictions.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


SCENARIOS = {"points": scenario_points, "random": scenario_random}


@pytest.mark.timeout(300)
def test_killed_at_some_points(tmp_path: Path) -> None:
    assert "deaths at" in run_scenario(__file__, tmp_path, "points", 8, [1], "", 8)


@pytest.mark.timeout(300)
def test_killed_at_any_moment(tmp_path: Path) -> None:
    assert "8 deaths" in run_scenario(__file__, tmp_path, "random", 80, 8)


@pytest.mark.timeout(300)
def test_killed_at_some_points_of_an_archive(tmp_path: Path) -> None:
    assert "deaths at" in run_scenario(__file__, tmp_path, "points", 8, [1], "tar.gz", 24)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["", "zip", "tar", "tar.gz"])
def test_killed_at_every_point_many_times(tmp_path: Path, kind: str) -> None:
    times = [1, 2, 3, 5, 8, 13, 21, 34]
    told = run_scenario(__file__, tmp_path, "points", 80, times, kind)
    assert int(told.split()[0]) >= 200


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["", "zip", "tar.gz"])
def test_killed_at_any_moment_many_times(tmp_path: Path, kind: str) -> None:
    assert "200 deaths" in run_scenario(__file__, tmp_path, "random", 300, 200, kind)


if __name__ == "__main__":
    warm()
    SCENARIOS[sys.argv[1]](Path(sys.argv[2]), *json.loads(sys.argv[3]))
