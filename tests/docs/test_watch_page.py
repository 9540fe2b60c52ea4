"""What docs/watch_and_cron.md says of options, status.json, health and metrics."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from runners.reporting.status import Status

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf" / "runner"
PAGE = ROOT / "docs" / "watch_and_cron.md"
TEXT = PAGE.read_text("utf-8")


def test_the_options_are_there() -> None:
    options = "\n".join(path.read_text("utf-8") for path in CONF.glob("*.yaml"))
    known = set(re.findall(r"^(\w+):", options, re.MULTILINE))
    named = set(re.findall(r"\brunner\.(\w+)", TEXT))
    assert named - known == set()
    assert named


def test_the_keys_of_the_status_are_there(tmp_path: Path) -> None:
    (shown,) = re.findall(r"^```json\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert list(json.loads(shown)) == list(Status(tmp_path).snapshot())


def test_the_metrics_are_there(tmp_path: Path) -> None:
    with Status(tmp_path, metrics=True) as status:
        status.update(pending=1)
        status.health(True)
        status.advance("done", "x", seconds={"forward": 1.0})
    there = set(re.findall(r"^(d2run_\w+)", (tmp_path / "metrics.prom").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bd2run_\w+", TEXT)) == there


@pytest.mark.parametrize(
    ("first", "age_s", "ok"),
    [
        pytest.param("ok", 0, True, id="ok"),
        pytest.param("ok", 300, False, id="old"),
        pytest.param("unhealthy: not ok", 0, False, id="unhealthy"),
        pytest.param(None, 0, False, id="missing"),
    ],
)
def test_the_health_command(tmp_path: Path, first: str | None, age_s: float, ok: bool) -> None:
    (command,) = re.findall(r"^test -n .*", TEXT, re.MULTILINE)
    path = tmp_path / "health"
    if first:
        path.write_text(f"{first}\n2026-01-31T09:30:12.345+00:00\n")
        then = path.stat().st_mtime - age_s
        os.utime(path, (then, then))
    command = command.replace("/srv/results/inbox/health", str(path))
    assert (subprocess.run(["/bin/sh", "-c", command]).returncode == 0) is ok
