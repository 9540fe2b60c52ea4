"""runner.on_change=restart removes what runs wrote, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from batches import job_of, lines, results, run, write_images

from pipeline.errors import PipelineError
from runners.rundir.clearing import clear
from runners.rundir.ledger.ledger import Ledger

RESTART = ("runner.on_change=restart", "stage.min_score.threshold=0.9", "sink=[coco,overlay]")
MINE = (
    "notes.txt", "overlay/mine.txt", "overlay/x.png", "overlay/x.png.jpg.bak",
    "overlay/sub/mine.jpg", "overlay/own/deep/mine.jpg", "overlay/.mine.part",
    "sem_seg/mine.png", "panoptic/own/mine.png", "masks/x.png.png",
    ".hydra/mine.yaml", "coco.json.bak",
)  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    names = (
        "x.png",
        "sub/y.png",
        "sub/deep/z.png",
        os.fsdecode(b"caf\xe9.png"),
        "n" * 251 + ".png",
    )
    write_images(tmp_path / "in", *names)
    (tmp_path / "in/bad.png").write_bytes(b"no image")
    run("input=in", "output=out", "sink=[coco,overlay]")
    return tmp_path


def add_mine(out: Path) -> None:
    for name in MINE:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(f"mine: {name}")


def files(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()}


def check_mine(out: Path) -> None:
    for name in MINE:
        assert (out / name).read_text() == f"mine: {name}"


def damage(out: Path) -> None:
    ledger = out / "ledger.sqlite"
    ledger.write_bytes(ledger.read_bytes()[:5000])


def lose(out: Path) -> None:
    (out / "ledger.sqlite").unlink()


@pytest.mark.parametrize("how", [None, damage, lose])
def test_restart(here: Path, how: Any) -> None:
    out = Path("out")
    add_mine(out)
    if how is not None:
        how(out)
    assert run("input=in", "output=out", *RESTART).totals == {"done": 5, "failed": 1}
    check_mine(out)
    fresh = Path("fresh")
    run("input=in", "output=fresh", *RESTART)
    assert files(out) == files(fresh) | set(MINE)
    assert (out / "predictions.jsonl").read_bytes() == (fresh / "predictions.jsonl").read_bytes()


def test_nothing_of_another_input_remains(here: Path) -> None:
    out = Path("out")
    add_mine(out)
    write_images(here, "other/o.png")
    run("input=other", "output=out", "runner.on_change=restart", "sink=[coco,overlay]")
    check_mine(out)
    assert list(results(out)) == ["o.png"]
    overlays = {name for name in files(out) if name.startswith("overlay")}
    assert overlays == {"overlay/o.png.jpg", *(name for name in MINE if name.startswith("overlay"))}
    assert not (out / "overlay/sub/deep").exists()  # it is empty


@pytest.mark.parametrize("sinks", ["[coco,overlay]", "[coco]", "[]"])
def test_clear(here: Path, sinks: str) -> None:
    """What is left is what d2run writes beside results, whichever sinks the next run has."""
    job = job_of("input=in", "output=out", f"sink={sinks}")
    clear(job.output, job.sinks, job.aggregates)
    assert {name.split("/")[0] for name in files(Path("out"))} == {
        ".lock", "run.json", "run.log", "status.json",
    }  # fmt: skip
    clear(job.output, job.sinks, job.aggregates)  # may be repeated


def test_files_of_sinks_that_the_run_did_not_have(here: Path) -> None:
    out = Path("coco_less")
    run("input=in", f"output={out}", "sink=[]")
    for name in ("coco.json", "panoptic.json", "overlay/x.png.jpg"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    run("input=in", f"output={out}", "sink=[]", "seed=3", "runner.on_change=restart")
    for name in ("coco.json", "panoptic.json", "overlay/x.png.jpg"):
        assert (out / name).read_text() == "mine"


def test_what_a_killed_run_had_begun(here: Path) -> None:
    out = Path("out")
    (out / "overlay/gone.png.jpg").write_bytes(b"written, never committed")
    (out / "overlay/.0123456789abcdef.part").write_bytes(b"not even whole")
    (out / ".in_flight").write_text(json.dumps("gone.png") + "\n")
    run("input=in", "output=out", *RESTART)
    assert not (out / "overlay/gone.png.jpg").exists()
    assert not (out / "overlay/.0123456789abcdef.part").exists()
    assert not (out / ".in_flight").exists()


def test_a_custom_sink_removes_its_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, discarded = Path("out"), []

    class Custom:
        def discard(self, asset: Any) -> None:
            discarded.append(asset.id)
            raise RuntimeError("it was never entered")

    record = json.loads((out / "run.json").read_text())
    record["settings"]["sinks"] = ["custom", "listing"]
    (out / "run.json").write_text(json.dumps(record))
    (out / "custom.csv").touch()
    (out / "unlisted.csv").touch()
    listing = type("Listing", (), {"files": ("custom.csv",)})()
    other = type("Other", (), {"files": ("unlisted.csv",)})()
    clear(out, {"custom": Custom(), "unknown": Custom()}, {"listing": listing, "other": other})  # type: ignore[dict-item]
    assert sorted(discarded) == sorted({"x.png", "sub/y.png", "sub/deep/z.png", "bad.png",
        os.fsdecode(b"caf\xe9.png"), "n" * 251 + ".png"})  # fmt: skip
    assert not (out / "custom.csv").exists()
    assert (out / "unlisted.csv").exists()


def test_a_link_is_not_followed(here: Path) -> None:
    out = Path("out")
    (here / "victim").mkdir()
    (here / "victim/x.png.jpg").write_text("mine")
    (out / "overlay").rename(here / "was")
    (out / "overlay").symlink_to(here / "victim")
    with pytest.raises(PipelineError, match="symbolic link"):
        run("input=in", "output=out", *RESTART)
    assert (here / "victim/x.png.jpg").read_text() == "mine"
    with Ledger(out / "ledger.sqlite") as ledger:  # once it is removed, the same command works
        assert ledger.counts()["done"] == 5
    (out / "overlay").unlink()
    assert run("input=in", "output=out", *RESTART).totals["done"] == 5


def test_a_failed_or_changed_input_leaves_other_files(here: Path) -> None:
    out = Path("out")
    add_mine(out)
    (here / "in/x.png").write_bytes(b"no image any more")
    (here / "in/sub/y.png").unlink()
    run("input=in", "output=out", "sink=[coco,overlay]")
    check_mine(out)
    assert not (out / "overlay/x.png.jpg").exists()
    assert (out / "overlay/sub/y.png.jpg").exists()  # its result is kept
    assert [line["asset"] for line in lines(out / "failures.jsonl")] == ["bad.png", "x.png"]


@pytest.mark.parametrize("name", ["inputs.jsonl", "failures.jsonl", "skipped.jsonl"])
def test_lists_that_no_run_wrote(here: Path, name: str) -> None:
    Path("mine").mkdir()
    Path("mine", name).write_text("mine")
    with pytest.raises(PipelineError, match=f"{name} that no run of d2run wrote"):
        run("input=in", "output=mine")
    assert Path("mine", name).read_text() == "mine"
