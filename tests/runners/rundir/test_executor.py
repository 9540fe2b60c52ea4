"""The run directory does not depend on who does the work, where, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batches import run, write_images
from elsewhere import Elsewhere

from runners.rundir import commit
from runners.rundir.ledger.ledger import Entry, Ledger

LISTS = ("predictions.jsonl", "inputs.jsonl", "failures.jsonl", "coco.json", "coco_results.json")


def content(out: Path) -> dict[str, bytes]:
    """Every file that the run has derived from its input."""
    files = [out / name for name in LISTS] + sorted(out.glob("overlay/**/*.jpg"))
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def ledger_of(out: Path) -> tuple[list[Entry], Any]:
    with Ledger(out / "ledger.sqlite") as ledger:
        return list(ledger.entries()), [ledger.position, ledger.fact("finished")]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    write_images(folder, *(f"{i}.png" for i in range(9)), "sub/x.jpg")
    (folder / "5.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    return folder


def test_outcomes_in_any_order_and_twice(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (f"input={images}", "sink=[coco,overlay]")
    assert run(*arguments, f"output={tmp_path}/here").exit_status == 3
    elsewhere = (*arguments, f"output={tmp_path}/elsewhere")
    make: Callable[[Any], Elsewhere] = lambda job: Elsewhere(elsewhere)  # noqa: E731
    monkeypatch.setattr(commit, "LocalExecutor", make)
    report = run(*elsewhere)
    assert (report.exit_status, report.counts) == (3, {"done": 9, "failed": 1})
    assert content(tmp_path / "elsewhere") == content(tmp_path / "here")
    assert ledger_of(tmp_path / "elsewhere") == ledger_of(tmp_path / "here")
    assert not list((tmp_path / "elsewhere").glob(".*.part"))
    assert not (tmp_path / "elsewhere" / ".in_flight").exists()
