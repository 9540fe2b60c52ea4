from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.types import Report
from runners.console import busy, print_summary


@pytest.mark.parametrize(
    ("forward_s", "wall_s", "expected"), [(9.5, 10.0, 0.95), (0.0, 2.0, 0.0), (0.0, 0.0, 0.0)]
)
def test_busy(forward_s: float, wall_s: float, expected: float) -> None:
    report = Report(0, timings={"forward": forward_s} if forward_s else {}, wall_s=wall_s)
    assert busy(report) == expected


def test_summary_shows_busy_and_the_steps_there_were(capfd: pytest.CaptureFixture[str]) -> None:
    print_summary(Report(0, timings={"forward": 9.5, "finish": 2.0}, wall_s=10.0), "cpu")
    shown = capfd.readouterr().out
    assert "ran on cpu, busy 95 % of the time" in shown
    assert "finish" in shown
    assert "prepare" not in shown


def test_summary_of_a_run_with_nothing_to_do(capfd: pytest.CaptureFixture[str]) -> None:
    counts = {"done": 0, "failed": 0, "skipped": 8}
    print_summary(Report(0, Path("out"), counts), "auto")
    assert capfd.readouterr().out.splitlines() == [
        "nothing to do: 8 skipped, done by an earlier run",
        "results in out",
    ]
