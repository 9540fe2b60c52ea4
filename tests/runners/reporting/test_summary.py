"""The lines that a run prints when it ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.job import FailureGroup, Report
from pipeline.system import terminal
from pipeline.system.versions import detectron2_origin
from runners.reporting.console import count_reasons
from runners.reporting.summary import print_summary

CPU = {"device": "cpu", "name": "AMD EPYC"}


@pytest.fixture
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "is_terminal", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def shown(capfd: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    def print_and_read(report: Report, device: dict[str, object] = CPU, **how: object) -> list[str]:
        print_summary(report, device, **how)
        return capfd.readouterr().out.splitlines()

    return print_and_read


@pytest.mark.parametrize(
    ("forward_s", "wall_s", "expected"), [(9.5, 10.0, 0.95), (0.0, 2.0, 0.0), (0.0, 0.0, 0.0)]
)
def test_busy(forward_s: float, wall_s: float, expected: float) -> None:
    report = Report(0, timings={"forward": forward_s} if forward_s else {}, wall_s=wall_s)
    assert report.busy == expected


def test_one_line_and_the_detections(shown: Callable[..., list[str]]) -> None:
    counts = {"done": 8, "failed": 2}
    report = Report(3, Path("out"), counts, counts, detections={"crack": 7}, wall_s=4.0,
                    timings={"forward": 3.68, "finish": 2.0})  # fmt: skip
    *table, summary, results = shown(report)
    assert summary.startswith("8 done, 2 failed, 2.0 images/s, model 92 % of the time · cpu AMD")
    assert " · torch " in summary
    assert summary.split(" · ")[-1] == f"Detectron2 {detectron2_origin()}"
    assert results == "results in out"
    assert any("crack" in line and "7" in line for line in table)
    assert not any("finish" in line for line in table)


def test_verbose_adds_the_steps_there_were(shown: Callable[..., list[str]]) -> None:
    report = Report(0, Path("out"), {"done": 1, "failed": 0}, wall_s=10.0,
                    timings={"load": 30.0, "forward": 9.5, "finish": 2.0})  # fmt: skip
    text = "\n".join(shown(report, verbose=True))
    assert "forward" in text
    assert "95" in text
    assert "finish" in text
    assert "prepare" not in text
    assert "300" not in text, "loading is no share of the wall time"


def test_verbose_lists_the_speedups(shown: Callable[..., list[str]]) -> None:
    fold = {"name": "fold_norms", "numerics": "rounding", "applied": True}
    compiled = {"name": "compile", "numerics": "rounding", "applied": False, "reason": "slow"}
    report = Report(0, Path("out"), {"done": 1, "failed": 0}, wall_s=1.0)
    device = CPU | {"speedups": [fold, compiled]}
    lines = shown(report, device, verbose=True)
    assert any("fold_norms" in line and "rounding" in line and "yes" in line for line in lines)
    assert any("compile" in line and "no: slow" in line for line in lines)
    assert "fold_norms" not in "\n".join(shown(report, device))


def test_no_model(shown: Callable[..., list[str]]) -> None:
    report = Report(0, Path("out"), {"done": 2, "failed": 0}, wall_s=1.0)
    summary, _ = shown(report, {"device": "auto", "fake": True})
    assert summary == "2 done, 2.0 images/s, no model (fake)"


@pytest.mark.parametrize(
    ("counts", "totals", "expected"),
    [
        pytest.param(
            {"earlier": 8}, {"done": 8, "failed": 0},
            ["nothing to do: 8 done earlier", "in the output: 8 done"],
            id="all done",
        ),
        pytest.param(
            {"earlier": 5, "not_retried": 2, "later": 1}, {"done": 5, "failed": 2},
            ["nothing to do: 5 done earlier, 2 not retried, 1 left for a later run",
             "in the output: 5 done, 2 failed"],
            id="some left",
        ),
        pytest.param(
            {}, {"done": 6, "failed": 0},
            ["nothing to do: no new input", "in the output: 6 done"],
            id="a watch that moved its files",
        ),
        pytest.param({}, {"done": 0, "failed": 0}, ["nothing to do: no input"], id="empty"),
    ],
)  # fmt: skip
def test_nothing_to_do(
    shown: Callable[..., list[str]],
    counts: dict[str, int],
    totals: dict[str, int],
    expected: list[str],
) -> None:
    report = Report(0, Path("out"), {"done": 0, "failed": 0} | counts, totals)
    assert shown(report) == [*expected, "results in out"]


def test_the_page_is_named_if_there_is_one(shown: Callable[..., list[str]], tmp_path: Path) -> None:
    report = Report(0, tmp_path, {"done": 1})
    assert shown(report)[-1] == f"results in {tmp_path}"
    (tmp_path / "report.html").touch()
    assert shown(report)[-1] == f"look at them in {tmp_path / 'report.html'}"


def test_this_run_and_the_output(shown: Callable[..., list[str]]) -> None:
    counts, totals = {"done": 3, "failed": 1, "earlier": 5}, {"done": 8, "failed": 1}
    skipped = {"hidden": 1, "unsupported image format (.heic)": 3}
    lines = shown(Report(3, Path("out"), counts, totals, skipped, wall_s=2.0))
    assert lines[0] == "skipped: 3 unsupported image format (.heic), 1 hidden"
    assert lines[1].startswith("this run: 3 done, 1 failed, 5 done earlier, 1.5 images/s, ")
    assert lines[2:] == ["in the output: 8 done, 1 failed", "results in out"]


def test_only_lists_and_aggregates_were_rebuilt(shown: Callable[..., list[str]]) -> None:
    report = Report(
        0, Path("out"), {"done": 0, "failed": 0, "earlier": 8}, {"done": 8}, rebuilt=True
    )
    assert shown(report)[0] == "lists and aggregates were rebuilt; 8 done earlier"


def test_failures_without_a_common_reason_are_not_repeated(
    shown: Callable[..., list[str]],
) -> None:
    groups = (FailureGroup("decode: empty file", 1, ("a.jpg",)),
              FailureGroup("decode: truncated", 1, ("d.jpg",)))  # fmt: skip
    lines = shown(Report(3, Path("out"), {"done": 0, "failed": 2}, failures=groups, wall_s=1.0))
    assert lines[0].startswith("2 failed, ")


def test_failures_by_reason(shown: Callable[..., list[str]]) -> None:
    groups = (FailureGroup("decode: empty file", 4, ("a.jpg", "b.jpg", "c.jpg")),
              FailureGroup("decode: truncated", 1, ("d.jpg",)))  # fmt: skip
    lines = shown(Report(3, Path("out"), {"done": 0, "failed": 5}, failures=groups, wall_s=1.0))
    assert lines[:2] == ["4 x decode: empty file: a.jpg, b.jpg, c.jpg, ...",
                         "1 x decode: truncated: d.jpg"]  # fmt: skip


@pytest.mark.usefixtures("eighty_columns")
def test_no_line_is_wider_than_the_terminal(shown: Callable[..., list[str]]) -> None:
    names = ("a name with spaces.jpg", "another name with spaces.jpg", "ünïcode ☃.jpg")
    group = FailureGroup(f"decode: {'not an image ' * 5}".strip(), 900, names)
    device = {"device": "cuda:0", "name": "NVIDIA H100 80GB HBM3"}
    report = Report(
        3, Path("out"), {"done": 3000, "failed": 900, "earlier": 7}, {"done": 3007, "failed": 900},
        {"unsupported image format (.heic)": 3, "x" * 30: 4},
        {f"{'a long class name ' * 9}{i}": i for i in range(90)},
        (group,), wall_s=600.0,
    )  # fmt: skip
    lines = shown(report, device, verbose=True)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for name in names:
        assert name in text, "a line break in a file's name would change it"
    assert "70 other classes" in text.replace("\n", " ")


def test_a_closed_standard_output_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return False

        def flush(self) -> None: ...

        def fileno(self) -> int:
            return spare

    import os

    spare = os.open(os.devnull, os.O_WRONLY)
    monkeypatch.setattr(sys, "stdout", Closed())
    try:
        print_summary(Report(0, Path("out"), {"done": 1, "failed": 0}, wall_s=1.0), CPU)
    finally:
        os.close(spare)


def test_many_reasons_are_cut_short() -> None:
    skipped = {f"not an image (.{i:06d})": 1 for i in range(1000)} | {"hidden": 7}
    shown = count_reasons(skipped)
    assert shown.startswith("7 hidden, 1 not an image (.000000), ")
    assert shown.endswith(", 996 for other reasons")
    assert count_reasons({"other reasons": 9} | skipped).endswith(", 1005 for other reasons")
