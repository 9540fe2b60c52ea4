"""runner.on_change=restart removes what runs wrote, and nothing else."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batches import job_of, lines, results, run, write_images

from pipeline.errors import ConfigError, PipelineError
from pipeline.protocols import Asset
from pipeline.records import Categories, Result
from pipeline.system.files import output_name, write_whole
from pipeline.system.output_folder import OutputFolder
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.owned.clearing import clear
from runners.rundir.owned.names import recorded_outputs

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
    recorded = recorded_outputs(job.output, None)
    clear(job.output, job.sinks, recorded)
    assert {name.split("/")[0] for name in files(Path("out"))} == {
        ".lock", "run.json", "run.log", "status.json",
    }  # fmt: skip
    assert not Path("out/overlay").exists()
    clear(job.output, job.sinks, recorded)  # may be repeated


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


class Notes:
    """A custom sink: a file per image, one for all, and an aggregate's directory."""

    outputs = "notes/", "all.txt"

    def __init__(self, root: Path) -> None:
        self.folder = OutputFolder(root)
        self.root = root

    def __enter__(self) -> Notes:
        (self.root / "all.txt").touch()
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def begin(self, asset: Asset) -> None:
        pass

    def write(self, result: Result) -> None:
        self.folder.write(f"notes/{output_name(result.frame.asset_id, '.txt')}", b"seen")

    def flush(self, asset: Asset) -> None:
        pass

    def discard(self, asset: Asset) -> None:
        self.folder.remove(f"notes/{output_name(asset.id, '.txt')}")


class Frames(Notes):
    """A sink that writes a file per frame, and can discard nothing before it is entered."""

    def write(self, result: Result) -> None:
        self.folder.write(f"notes/{output_name(result.frame.asset_id, '.txt', 0)}", b"seen")

    def discard(self, asset: Asset) -> None:
        raise RuntimeError("not entered")


class Pages:
    """A custom aggregate with a directory."""

    is_aggregate = True
    outputs = ("pages/",)

    def __init__(self, root: Path) -> None:
        self.root = root

    def build(self, journal: Path, categories: Categories) -> None:
        for i, _ in enumerate(journal.read_bytes().splitlines()):
            write_whole(self.root / f"pages/{i // 2}/{i}.html", "page")


def run_custom(sink: type[Notes] | None, *arguments: str) -> None:
    job = job_of("input=in", "output=out", "sink=[]", *arguments)
    sinks = job.sinks if sink is None else {"notes": sink(job.output), **job.sinks}
    aggregates: Any = {} if sink is None else {"pages": Pages(job.output)}
    job = replace(job, sinks=sinks, aggregates=aggregates)
    job.runner.run(job)


@pytest.fixture
def custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "in", "x.png", "sub/y.png", "n" * 250 + ".png")
    return tmp_path / "out"


@pytest.mark.parametrize("sink", [Notes, Frames])
@pytest.mark.parametrize("has_it_again", [True, False])
@pytest.mark.parametrize("how", [None, damage])
def test_a_custom_sink_is_cleared_like_ours(
    custom: Path, sink: Any, has_it_again: bool, how: Any
) -> None:
    run_custom(sink)
    first = files(custom)
    assert {name.split("/")[0] for name in first} >= {"notes", "all.txt", "pages"}
    mine = {"notes/mine.txt", "notes/sub/deep/mine.txt", "notes/x.png/mine.md", "pages/mine.html"}
    if sink is Notes:
        mine.remove("notes/x.png/mine.md")
    for name in mine:
        (custom / name).parent.mkdir(parents=True, exist_ok=True)
        (custom / name).write_text("mine")
    Path("in/x.png").unlink()
    if how is not None:
        how(custom)
        mine.discard("pages/mine.html")
        (custom / "pages/mine.html").unlink()
        for page in (custom / "pages").rglob("*.html"):  # only the ledger knew them
            page.unlink()
    run_custom(sink if has_it_again else None, "runner.on_change=restart", "seed=3")
    left = {name for name in files(custom) if name.split("/")[0] in ("notes", "all.txt", "pages")}
    assert not any("x.png.txt" in name or name.endswith("x.png/000000.txt") for name in left)
    if not has_it_again:
        assert left == mine
    assert left >= mine


def test_a_custom_sink_is_protected_like_ours(custom: Path) -> None:
    custom.mkdir()
    (custom / "all.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds all\.txt, which no run of d2run wrote"):
        run_custom(Notes)
    assert (custom / "all.txt").read_text() == "mine"
    assert files(custom) == {"all.txt"}  # nothing was started
    run_custom(None)
    with pytest.raises(ConfigError, match=r"holds all\.txt, which no run of d2run wrote"):
        run_custom(Notes, "seed=3", "runner.on_change=restart")
    assert (custom / "all.txt").read_text() == "mine"
    assert len(results(custom)) == 3  # nothing was removed
    (custom / "all.txt").unlink()
    run_custom(Notes, "seed=3", "runner.on_change=restart")
    run_custom(Notes, "seed=3")  # its own files do not disturb it


def test_the_input_is_where_an_earlier_sink_wrote(custom: Path) -> None:
    run_custom(Notes)
    write_images(custom / "notes", "x.png.txt.png")
    before = files(custom)
    with pytest.raises(ConfigError, match="is in notes/ of the output"):
        run("input=out/notes", "output=out", "sink=[]", "runner.on_change=restart")
    assert files(custom) == before


def test_the_plan_shows_outputs(custom: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = job_of("input=in", "output=out", "sink=[overlay]", "runner=plan")
    job = replace(job, sinks={"notes": Notes(job.output), **job.sinks})
    job.runner.run(job)
    shown = capfd.readouterr().out
    for name in ("notes/", "all.txt", "overlay/", "predictions.jsonl", "failures.jsonl"):
        assert name in shown


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
    (here / "in/x.png").write_bytes(b"not an image")
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
    with pytest.raises(PipelineError, match=f"{name}, which no run of d2run wrote"):
        run("input=in", "output=mine")
    assert Path("mine", name).read_text() == "mine"
