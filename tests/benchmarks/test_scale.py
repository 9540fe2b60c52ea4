"""``benchmarks/scale.py`` runs end to end; its model of failures is what a person would compute."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("scale_failures")


def report(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    saved = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "scale.py"), *arguments, "--json", str(saved)],
        capture_output=True,
        text=True,
        env=os.environ | {"D2RUN_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.glob("d2run-bench-*"))
    found: dict[str, Any] = json.loads(saved.read_text())
    return found


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_costs(tmp_path: Path) -> None:
    found = report(tmp_path, "--parts", "driver", "merge", "--assets", "300", "--shards", "2")
    costs = found["assets"]["300"]
    for part, steps in {"driver": ("commit", "finish"), "merge": ("merge", "again")}.items():
        for step in steps:
            assert costs[part][step]["status"] == 0
            assert costs[part][step]["peak_mb"] > 1
        assert {"predictions.jsonl", "ledger.sqlite"} <= set(costs[part]["bytes"])


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_plans_and_failures(tmp_path: Path) -> None:
    found = report(
        tmp_path, "--parts", "plan", "resume", "failures", "--assets", "3000", "--inputs", "300",
        "--deaths", "3",
    )  # fmt: skip
    costs = found["assets"]["3000"]
    assert (costs["plan"]["plan"]["status"], costs["resume"]["resume"]["status"]) == (0, 0)
    assert found["failures"]["deaths"] == 3
    assert 0 < found["failures"]["redone"]["measured"]["max"] < 32 + 12


def test_a_job_without_failures(model: ModuleType) -> None:
    found = model.simulate(model.Cluster(8000, 8, 0.5, 100, 1e12), 0)
    assert (found["failures"], found["redone"]) == (0, 0)
    assert found["hours"] == pytest.approx((100 + 1000 * 0.5) / 3600) == found["ideal_hours"]


def test_failures_cost_their_starts_and_the_open_group(model: ModuleType) -> None:
    cluster = model.Cluster(
        assets=8_000_000, nodes=4, asset_s=0.02, start_s=30, mtbf_s=500, ahead=4
    )
    found = model.simulate(cluster, 1)
    assert model.simulate(cluster, 1) == found  # seeded
    per_failure = found["redone"] / found["failures"]
    # half a group, and what is ahead; nothing if it fails again before it has started
    assert per_failure == pytest.approx((31 / 2 + 4) * (1 - 30 / 500), abs=1.5)
    assert model.group_of(0.5) == 2  # a slow model commits every second
    assert model.group_of(10) == 1
    # each node loses, per failure, the start and what it repeats
    expected_s = 40_000 * (1 + (30 + per_failure * 0.02) / (500 - 30)) + 30
    assert found["hours"] * 3600 == pytest.approx(expected_s, rel=0.2)
