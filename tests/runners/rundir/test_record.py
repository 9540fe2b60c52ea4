"""run.json: duplicates among the inputs, and what a killed run did."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from batches import job_of, record, run, write_images

from pipeline.errors import OutputError
from runners.rundir.commit import Session
from runners.rundir.ledger.duplicates import record_duplicates, recorded_duplicates
from runners.rundir.ledger.ledger import Entry, Ledger


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "in", "a.png", "b.png", "c.png")
    return tmp_path


def test_duplicates(here: Path) -> None:
    content = Path("in/a.png").read_bytes()
    for name in (b"copy.png", b"caf\xe9.png"):
        Path("in", os.fsdecode(name)).write_bytes(content)
    run("input=in", "output=out")
    duplicates = record(Path("out"))["duplicates"]
    (group,) = duplicates.pop("largest")
    assert duplicates == {"groups": 1, "inputs": 2}
    assert group.pop("sha256")
    assert group == {"count": 3, "assets": ["a.png", "caf\\xe9.png", "copy.png"]}
    run("input=in", "output=out")  # nothing to process
    assert record(Path("out"))["duplicates"]["inputs"] == 2
    Path("in/copy.png").unlink()
    run("input=in", "output=other")
    assert record(Path("other"))["duplicates"]["inputs"] == 1


def test_many_duplicates(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert recorded_duplicates(ledger) == {"groups": 0, "inputs": 0, "largest": []}
        entries = [
            Entry(f"{group}/{i}.png", group * 100 + i, "done", sha256=f"{group:02}" + "z" * 62)
            for group in range(60)
            for i in range(group)
        ]
        ledger.put([*entries, Entry("unread.png", 9000, "failed"), Entry("u.png", 9001, "failed")])
        record_duplicates(ledger)
        found = recorded_duplicates(ledger)
    assert (found["groups"], found["inputs"]) == (58, sum(range(60)) - 59)
    assert [group["count"] for group in found["largest"]] == list(range(59, 39, -1))
    assert found["largest"][0]["assets"] == ["59/0.png", "59/1.png", "59/10.png", "59/11.png",
                                             "59/12.png"]  # fmt: skip


def kill(out: Path) -> None:
    """Leave the files as ``kill -9`` would, after one of three inputs."""
    content = record(out)
    content |= {"state": "running", "pid": 4242, "end": None, "exit_status": None, "counts": {}}
    (out / "run.json").write_text(json.dumps(content))
    status = {"pid": 4242, "updated": "2026-01-01T00:00:00+00:00", "counts": {"done": 1}}
    (out / "status.json").write_text(json.dumps(status))


def test_a_killed_run(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run("input=in", "output=out")
    first = record(Path("out"))
    assert (first["state"], first["pid"], first["previous"]) == ("ended", os.getpid(), None)
    kill(Path("out"))
    run("input=in", "output=out", "runner=plan")
    assert "it last reported 1 done, and the output holds 3 done" in capfd.readouterr().err
    write_images(here / "in", "d.png")
    run("input=in", "output=out")
    second = record(Path("out"))
    assert second["previous"] == {
        "start": first["start"],
        "pid": 4242,
        "counts": {"done": 1},
        "last_seen": "2026-01-01T00:00:00+00:00",
        "kept": {"done": 3, "failed": 0},
    }
    assert second["earlier"][0]["counts"] == {"done": 1}
    run("input=in", "output=out")
    assert record(Path("out"))["previous"] is None  # of the last run only


def test_a_status_of_another_run(here: Path) -> None:
    run("input=in", "output=out")
    kill(Path("out"))
    Path("out/status.json").unlink()
    run("input=in", "output=out")
    previous = record(Path("out"))["previous"]
    assert (previous["counts"], previous["last_seen"]) == ({}, None)
    assert previous["kept"] == {"done": 3, "failed": 0}


def test_the_start_is_recorded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **options: object) -> None:
        assert record(Path("out"))["state"] == "running"
        assert record(Path("out"))["pid"] == os.getpid()
        raise KeyboardInterrupt

    monkeypatch.setattr("runners.batch.processing.file_reader", die)
    job = job_of("input=in", "output=out")
    with pytest.raises(KeyboardInterrupt):
        job.runner.run(job)
    ended = record(Path("out"))
    assert (ended["state"], ended["exit_status"]) == ("ended", 130)


def test_what_is_not_committed_is_not_counted(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Session) -> None:
        raise OutputError("disk full")

    monkeypatch.setattr(Session, "commit", fail)
    with pytest.raises(OutputError):
        run("input=in", "output=out")
    content, status = record(Path("out")), json.loads(Path("out/status.json").read_text())
    assert content["counts"] == content["totals"] == {"done": 0, "failed": 0}
    assert not any(status["counts"].values())


def test_a_removed_aggregate_is_rebuilt(here: Path) -> None:
    assert not run("input=in", "output=out").rebuilt
    Path("out/coco.json").unlink()
    assert run("input=in", "output=out").rebuilt
    assert Path("out/coco.json").exists()
    assert not run("input=in", "output=out").rebuilt


def test_a_foreign_change_is_not_accepted_by_a_run_with_nothing_to_do(here: Path) -> None:
    run("input=in", "output=out")
    before = Path("out/manifest.sha256").read_bytes()
    predictions = Path("out/predictions.jsonl")
    predictions.write_bytes(predictions.read_bytes().replace(b'"frame": 0', b'"frame": 7', 1))
    run("input=in", "output=out")
    assert record(Path("out"))["manifest"]["bytes_read"] == 0
    assert Path("out/manifest.sha256").read_bytes() == before  # so runner=verify finds it
