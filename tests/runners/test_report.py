"""``sink=report`` in a run, and ``runner=report`` after it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from batches import job_of, lines, record, run, write_images

from pipeline.errors import ConfigError
from pipeline.protocols import RecordAggregate
from runners.rundir.owned.aggregates import build_from_record

REPORT = ("input=in", "output=out", "sink=[coco,report]")
AGAIN = ("runner=report", "runner.run=out", "sink=[report]")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "in", "x.png", "sub/y.png")
    return tmp_path


def blocks(out: Path) -> tuple[str, dict[str, Any]]:
    """Return the data and the facts of the page."""
    page = (out / "report.html").read_text(encoding="utf-8")
    data, facts = (
        re.search(rf'id="{name}">(.*?)</script>', page)[1]  # type: ignore[index]
        for name in ("data", "facts")
    )
    return data, json.loads(facts)


def test_it_is_built_from_the_complete_record(here: Path) -> None:
    (here / "in/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert run(*REPORT).exit_status == 3
    data, facts = blocks(Path("out"))
    shown = {image["id"]: image["src"] for image in json.loads(data)["images"]}
    assert set(shown) == {"x.png", "sub/y.png"}
    assert all(src.startswith("data:image/jpeg;base64,") for src in shown.values())
    assert [failure[0] for failure in json.loads(data)["failures"]] == ["broken.png"]
    written = record(Path("out"))
    assert facts["seconds"] == written["seconds"]
    assert facts["exit_status"] == 3
    assert facts["totals"] == {"done": 2, "failed": 1}
    assert {name for name, _ in facts["slowest"]} == {"x.png", "sub/y.png", "broken.png"}
    assert facts["images_note"] == ""


def test_it_is_not_part_of_the_fingerprint(here: Path) -> None:
    run("input=in", "output=out", "sink=[coco]")
    fingerprint = record(Path("out"))["fingerprint"]
    report = run(*REPORT)  # nothing to process, but it is missing
    assert (report.counts["done"], report.counts["earlier"]) == (0, 2)
    assert record(Path("out"))["fingerprint"] == fingerprint
    before = Path("out/report.html").stat()
    run(*REPORT)
    assert Path("out/report.html").stat() == before  # of the same results


def test_the_runner_writes_the_same_data(here: Path) -> None:
    run(*REPORT)
    data = blocks(Path("out"))[0]
    Path("out/report.html").unlink()
    assert run(*AGAIN).exit_status == 0
    assert blocks(Path("out"))[0] == data


def test_the_runner_needs_no_sink_and_accepts_its_options(here: Path) -> None:
    run("input=in", "output=out", "sink=[coco]")
    run("runner=report", "runner.run=out")
    assert len(json.loads(blocks(Path("out"))[0])["images"]) == 2
    run(*AGAIN, "sink.report.embed=false")
    sources = {image["src"] for image in json.loads(blocks(Path("out"))[0])["images"]}
    assert sources == {"report/x.png.jpg", "report/sub/y.png.jpg"}
    assert all(Path("out", source).is_file() for source in sources)


def test_images_that_changed_or_moved(here: Path) -> None:
    run(*REPORT)
    write_images(here / "in", "x.png", value=7)
    run(*AGAIN)
    data, facts = blocks(Path("out"))
    assert {i["id"]: bool(i["src"]) for i in json.loads(data)["images"]} == {
        "x.png": False,
        "sub/y.png": True,
    }
    assert "x.png: " in facts["images_note"]
    assert "changed" in facts["images_note"]

    Path("in").rename("moved")
    run(*AGAIN)
    data, facts = blocks(Path("out"))
    assert not any(image["src"] for image in json.loads(data)["images"])
    assert "source.root" not in facts["images_note"]
    assert "sink.report.root" in facts["images_note"]
    run(*AGAIN, "sink.report.root=moved")
    assert any(image["src"] for image in json.loads(blocks(Path("out"))[0])["images"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "add runner.run=DIR"),
        (("runner.run=nothing",), "no run in"),
        (("runner.run=out", "input=in"), "remove input"),
    ],
)
def test_mistakes(here: Path, arguments: tuple[str, ...], message: str) -> None:
    run("input=in", "output=out", "sink=[coco]")
    with pytest.raises(ConfigError, match=message):
        run("runner=report", *arguments)
    assert not Path("out/report.html").exists()


def test_restart_removes_the_thumbnails(here: Path) -> None:
    run(*REPORT, "sink.report.embed=false")
    assert Path("out/report/x.png.jpg").exists()
    Path("in/x.png").unlink()
    restart = ("runner.on_change=restart", "stage.min_score.threshold=0.9")
    run("input=in", "output=out", "sink=[coco]", *restart)
    assert not Path("out/report").exists()
    assert not Path("out/report.html").exists()
    assert [line["asset"] for line in lines(Path("out/inputs.jsonl"))] == ["sub/y.png"]


def test_a_run_that_goes_on_shows_its_images(here: Path) -> None:
    run("input=in", "output=out", "sink=[coco]")
    written = record(Path("out")) | {"state": "running", "exit_status": None}
    Path("out/run.json").write_text(json.dumps(written))
    Path("out/skipped.jsonl").unlink()  # a watch has none
    job = job_of(*REPORT)
    report = job.aggregates["report"]
    assert isinstance(report, RecordAggregate)
    build_from_record(report, job.output, job.model.categories)
    data, facts = blocks(Path("out"))
    assert all(image["src"] for image in json.loads(data)["images"])
    assert (facts["state"], facts["images_note"]) == ("running", "")
