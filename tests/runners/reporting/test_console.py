from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pipeline.job import Report
from runners.reporting.console import busy, print_summary, reasons
from runners.reporting.tally import most_common


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


@pytest.mark.parametrize(
    ("counts", "totals", "expected"),
    [
        pytest.param(
            {"earlier": 8}, {"done": 8, "failed": 0},
            ["nothing to do: 8 done earlier", "the output now holds 8 done"],
            id="all done",
        ),
        pytest.param(
            {"earlier": 5, "not_retried": 2, "later": 1}, {"done": 5, "failed": 2},
            ["nothing to do: 5 done earlier, 2 not retried, 1 left for a later run",
             "the output now holds 5 done, 2 failed"],
            id="some left",
        ),
        pytest.param(
            {}, {"done": 6, "failed": 0},
            ["nothing to do: no new input", "the output now holds 6 done"],
            id="a watch that moved its files",
        ),
        pytest.param({}, {"done": 0, "failed": 0}, ["nothing to do: no input"], id="empty"),
    ],
)  # fmt: skip
def test_summary_of_a_run_with_nothing_to_do(
    capfd: pytest.CaptureFixture[str],
    counts: dict[str, int],
    totals: dict[str, int],
    expected: list[str],
) -> None:
    report = Report(0, Path("out"), {"done": 0, "failed": 0} | counts, totals)
    print_summary(report, "auto")
    assert capfd.readouterr().out.splitlines() == [*expected, "results in out"]


def test_summary_tells_this_run_from_the_output(capfd: pytest.CaptureFixture[str]) -> None:
    counts, totals = {"done": 3, "failed": 1, "earlier": 5}, {"done": 8, "failed": 1}
    skipped = {"hidden": 1, "unsupported image format (.heic)": 3}
    print_summary(Report(3, Path("out"), counts, totals, skipped, wall_s=2.0), "cpu")
    shown = capfd.readouterr().out.splitlines()
    assert "3 done, 1 failed, 5 done earlier; 1.50 inputs/s" in shown[-5]
    assert shown[-3:] == [
        "skipped: 3 unsupported image format (.heic), 1 hidden",
        "the output now holds 8 done, 1 failed",
        "results in out",
    ]


def test_a_first_run_says_nothing_twice(capfd: pytest.CaptureFixture[str]) -> None:
    counts = {"done": 3, "failed": 0}
    print_summary(Report(0, Path("out"), counts, counts, wall_s=2.0), "cpu")
    shown = capfd.readouterr().out
    assert "3 done; 1.50 inputs/s" in shown
    assert "holds" not in shown
    assert "skipped" not in shown


def test_many_reasons_are_cut_short() -> None:
    skipped = {f"not an image (.{i:06d})": 1 for i in range(1000)} | {"hidden": 7}
    shown = reasons(skipped)
    assert shown.startswith("7 hidden, 1 not an image (.000000), ")
    assert shown.endswith(", 996 for other reasons")
    common = most_common(Counter(skipped))
    assert (len(common), sum(common.values()), common["other reasons"]) == (21, 1007, 981)
