"""Shards and their merge, killed: the files are byte for byte those of one process."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from dying import POINTS, arm, ended, forked
from forking import warm
from scenarios import make_inputs, outputs, run_scenario, tell

FILES = ("manifest.sha256", "skipped.jsonl")  # the manifest names every other file
# of the points of a batch, those that a merge comes to
OF_A_MERGE = [
    point
    for point in POINTS
    if point.partition(" ")[2]
    in ("fsync", "rename", "put", "commit", "set fact", "end of order", "lists", "aggregate")
]
SINK = "sink=[overlay,coco]"


def all_outputs(out: Path) -> dict[str, bytes]:
    return outputs(out) | {name: (out / name).read_bytes() for name in FILES}


def run_killed(command: list[str], rng: random.Random, takes_s: float, deaths: int) -> int:
    """Kill a command at random moments until it has died so often; then let it finish."""
    died, status = 0, 0
    while died < deaths:
        child = forked(command)
        time.sleep(rng.uniform(0, takes_s))
        os.kill(child, signal.SIGKILL)
        status = ended(child)
        died += status == -signal.SIGKILL
    return ended(forked(command))


def scenario_random(folder: Path, n: int, count: int, killed: int, deaths: int) -> None:
    """Kill some of the shards, and the merge, at random moments."""
    arguments = [*make_inputs(folder / "in", n), SINK]
    began = time.monotonic()
    assert ended(forked([*arguments, f"output={folder}/whole"])) == 3
    takes_s = time.monotonic() - began
    rng = random.Random(3)
    chosen = rng.sample(range(1, count + 1), killed)
    statuses = Counter[int]()
    for i in range(1, count + 1):
        shard = [*arguments, f"output={folder}/out", f"runner.shard={i}/{count}"]
        statuses[run_killed(shard, rng, takes_s / count, deaths if i in chosen else 0)] += 1
    assert statuses == {0: count - 1, 3: 1}
    merge = ["runner=merge", f"output={folder}/out", "quiet=true"]
    assert run_killed(merge, rng, takes_s / 4, deaths) == 3
    assert all_outputs(folder / "out") == all_outputs(folder / "whole")
    tell(f"{deaths * (killed + 1)} deaths")


def scenario_points(folder: Path, n: int, times: list[int], every: int) -> None:
    """Kill the merge before and after each step."""
    arguments = [*make_inputs(folder / "in", n), SINK]
    assert ended(forked([*arguments, f"output={folder}/whole"])) == 3
    for i in (1, 2):
        shard = [*arguments, f"output={folder}/out", f"runner.shard={i}/2"]
        assert ended(forked(shard)) in (0, 3)
    whole, met = all_outputs(folder / "whole"), Counter[str]()
    for point in OF_A_MERGE[::every]:
        for at in times:
            out = folder / f"{point} {at}"
            shutil.copytree(folder / "out", out)
            merge = ["runner=merge", f"output={out}", "quiet=true"]
            status = ended(forked(merge, lambda p=point, at=at: arm(p, at)))  # type: ignore[misc]
            met[point] += status == -signal.SIGKILL
            assert status in (3, -signal.SIGKILL), (point, at, status)
            assert ended(forked(merge)) == 3, (point, at)
            assert all_outputs(out) == whole, (point, at)
            left = [path.name for path in out.rglob("*") if path.suffix in (".part", ".ordered")]
            assert left == [], (point, at)
    missed = [point for point in OF_A_MERGE[::every] if not met[point]]
    assert not missed, missed
    tell(f"{sum(met.values())} deaths at {len(met)} points")


SCENARIOS = {"points": scenario_points, "random": scenario_random}


@pytest.mark.timeout(300)
def test_two_of_eight_shards_and_the_merge_are_killed(tmp_path: Path) -> None:
    assert "3 deaths" in run_scenario(__file__, tmp_path, "random", 40, 8, 2, 1)


@pytest.mark.timeout(300)
def test_a_merge_killed_at_some_points(tmp_path: Path) -> None:
    assert "deaths at" in run_scenario(__file__, tmp_path, "points", 8, [1], 6)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_shards_and_the_merge_are_killed_many_times(tmp_path: Path) -> None:
    assert "100 deaths" in run_scenario(__file__, tmp_path, "random", 3000, 8, 4, 20)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_a_merge_killed_at_every_point_many_times(tmp_path: Path) -> None:
    told = run_scenario(__file__, tmp_path, "points", 80, [1, 2, 3, 5, 8, 13], 1)
    assert int(told.split()[0]) >= 50


if __name__ == "__main__":
    warm("runners.merge.runner")
    SCENARIOS[sys.argv[1]](Path(sys.argv[2]), *json.loads(sys.argv[3]))
