"""Aggregates are derived from the results, so they can be added, removed and rebuilt later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from batches import record, run, write_images

from pipeline.errors import ConfigError

NAMES = ("coco.json", "coco_results.json")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "in", "x.png", "y.png")
    return tmp_path


def coco(out: Path) -> list[bytes | None]:
    return [(out / name).read_bytes() if (out / name).exists() else None for name in NAMES]


def test_one_is_added_to_a_finished_run(here: Path) -> None:
    run("input=in", "output=out", "sink=[]")
    assert coco(Path("out")) == [None, None]
    report = run("input=in", "output=out", "sink=[coco]")
    assert (report.counts["done"], report.counts["earlier"]) == (0, 2)
    run("input=in", "output=fresh", "sink=[coco]")
    assert coco(Path("out")) == coco(Path("fresh"))
    assert record(Path("out"))["fingerprint"] == record(Path("fresh"))["fingerprint"]


def test_one_is_removed(here: Path) -> None:
    run("input=in", "output=out", "sink=[coco]")
    built = coco(Path("out"))
    run("input=in", "output=out", "sink=[]")
    assert coco(Path("out")) == built
    write_images(here / "in", "z.png")
    run("input=in", "output=out", "sink=[]")
    assert coco(Path("out")) == built  # of the two images still
    run("input=in", "output=out", "sink=[coco]")  # nothing to process, but it is out of date
    run("input=in", "output=fresh", "sink=[coco]")
    assert coco(Path("out")) == coco(Path("fresh")) != built


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_was_deleted_is_built_again(here: Path, name: str) -> None:
    run("input=in", "output=out", "sink=[coco]")
    built = coco(Path("out"))
    Path("out", name).unlink()
    run("input=in", "output=out", "sink=[coco]")
    assert coco(Path("out")) == built


def test_built_only_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("input=in", "output=out", "sink=[coco]")  # panoptic.json is never written: optional

    def build(*_: Any) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr("pipeline.sinks.coco.CocoJson.build", build)
    run("input=in", "output=out", "sink=[coco]")


def test_a_file_of_the_user_is_not_overwritten(here: Path) -> None:
    run("input=in", "output=out", "sink=[]")
    Path("out/panoptic.json").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds panoptic\.json, which no run of d2run wrote"):
        run("input=in", "output=out", "sink=[coco]")
    assert coco(Path("out")) == [None, None]


def test_a_sink_is_refused(here: Path) -> None:
    run("input=in", "output=out", "sink=[coco]")
    with pytest.raises(ConfigError, match=r"sinks was \[\], is \['overlay'\]"):
        run("input=in", "output=out", "sink=[coco,overlay]")
