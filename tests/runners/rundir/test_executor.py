"""The run directory does not depend on who does the work, where, and in which order."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from batches import run, write_images
from elsewhere import Elsewhere

from runners.batch import Batch
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
    for path in folder.rglob("*.*"):
        os.utime(path, (1e9, 1e9))  # the ledger does not trust the time of a file just written
    return folder


def test_outcomes_in_any_order_and_twice(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (f"input={images}", "sink=[coco,overlay]")
    assert run(*arguments, f"output={tmp_path}/here").exit_status == 3
    elsewhere = (*arguments, f"output={tmp_path}/elsewhere")
    monkeypatch.setattr(Batch, "executor", lambda self, job: Elsewhere(elsewhere))
    report = run(*elsewhere)
    assert (report.exit_status, report.counts) == (3, {"done": 9, "failed": 1})
    assert content(tmp_path / "elsewhere") == content(tmp_path / "here")
    assert ledger_of(tmp_path / "elsewhere") == ledger_of(tmp_path / "here")
    assert not list((tmp_path / "elsewhere").glob(".*.part"))
    assert not (tmp_path / "elsewhere" / ".in_flight").exists()
