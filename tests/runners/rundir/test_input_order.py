"""What is derived when a run ends: order, image ids, lists."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import OutputError
from runners.rundir import input_order as results
from runners.rundir import lists
from runners.rundir.journal import Position
from runners.rundir.ledger.ledger import Entry, Ledger

TRICKY = 'x, "image_id": 7, "instances": .jpg'


def line(asset: str, image_id: int, frame: int = 0) -> bytes:
    head = json.dumps({"asset": asset, "frame": frame, "height": 2})[:-1]
    return f'{head}, "image_id": {image_id}, "instances": [{{"class_name": "ü"}}]}}\n'.encode()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Committed in the order c, b (superseded), a, b again; d failed, e has fixed ids."""
    written = [
        ("c", 2, line("c", 1)),
        ("old b", 1, line("b", 2)),
        ("a", 0, line("a", 3) + line("a", 4, 1)),
        ("b", 1, line("b", 5)),
        ("e", 4, line("e", 900)),
        (TRICKY, 5, line(TRICKY, 6)),
    ]
    ledger = Ledger(tmp_path / "ledger.sqlite")
    size = 0
    with (tmp_path / "predictions.jsonl").open("wb") as file:
        for name, place, data in written:
            file.write(data)
            fixed = 900 if name == "e" else None
            if name != "old b":
                ledger.put([Entry(name, place, "done", 9, None, "0", size, len(data), fixed, 1)])
            size += len(data)
    failed = Entry("d", 3, "failed", step="decode", error="DecodeError", message="no")
    ledger.put([failed])
    ledger.commit(Position(size, 7))
    yield ledger
    ledger.__exit__()


def ids(directory: Path) -> list[tuple[str, int]]:
    found = (json.loads(t) for t in (directory / "predictions.jsonl").read_bytes().splitlines())
    return [(record["asset"], record["image_id"]) for record in found]


ORDERED = [("a", 1), ("a", 2), ("b", 3), ("c", 4), ("e", 900), (TRICKY, 5)]


def test_put_in_order(tmp_path: Path, ledger: Ledger) -> None:
    results.put_in_order(tmp_path, ledger)
    assert ids(tmp_path) == ORDERED
    assert ledger.position == Position((tmp_path / "predictions.jsonl").stat().st_size, 6)
    written = (tmp_path / "predictions.jsonl").stat()
    results.put_in_order(tmp_path, ledger)
    assert (tmp_path / "predictions.jsonl").stat().st_ino == written.st_ino  # left alone


def test_an_interrupted_order_is_finished(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(results, "finish_order", lambda *_: None)
        results.put_in_order(tmp_path, ledger)
    assert ids(tmp_path)[0] == ("c", 1)
    results.finish_order(tmp_path, ledger)
    assert ids(tmp_path) == ORDERED
    results.finish_order(tmp_path, ledger)  # it may have died after the rename
    assert ids(tmp_path) == ORDERED
    assert not list(tmp_path.glob(".*"))


def test_an_order_that_was_not_committed_is_dropped(tmp_path: Path, ledger: Ledger) -> None:
    (tmp_path / ".predictions.jsonl.ordered").write_text("half of")
    results.finish_order(tmp_path, ledger)
    assert ids(tmp_path)[0] == ("c", 1)
    assert not list(tmp_path.glob(".*"))


def test_lines_that_are_no_more_theirs(tmp_path: Path, ledger: Ledger) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(OutputError, match="runner=repair"):
        results.put_in_order(tmp_path, ledger)


def test_lists(tmp_path: Path, ledger: Ledger) -> None:
    lists.write_lists(tmp_path, ledger)
    inputs = [json.loads(t) for t in (tmp_path / "inputs.jsonl").read_text().splitlines()]
    assert [each["asset"] for each in inputs] == ["a", "b", "c", "d", "e", TRICKY]
    failures = [json.loads(t) for t in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert failures == [
        {"asset": "d", "step": "decode", "error": "DecodeError", "message": "no", "attempts": 1}
    ]
