"""What a batch skips is counted by reason and listed; what the system refuses fails alone."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from batches import lines, record, results, run, write_images

from pipeline.sources import Skipped, scan
from pipeline.sources.decode.formats import extras
from pipeline.system.files import asset_keys
from runners.rundir.lists import write_skipped

PSD = "unsupported image format (.psd)"
NO_EXTENSION = "not an image (no extension)"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_reason(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_images(here / "in", "a.jpg", "sub/b.png")
    (here / "in/a.jpg").chmod(0o644)
    not_utf8 = os.fsdecode(b"caf\xe9.psd")
    expected = {
        ".hidden.jpg": "hidden",
        "a.psd": PSD,
        "b.PSD": PSD,
        not_utf8: PSD,
        "photo": NO_EXTENSION,
        "sub/empty": NO_EXTENSION,
        "all.rar": "not an image (.rar)",
        "Thumbs.db": "system file",
        "c.jpg.part": "temporary file",
        "notes.txt": "not an image (.txt)",
        "dangling.jpg": "dangling link",
        "fifo.jpg": "not a regular file",
    }
    for name in expected:
        if name == "dangling.jpg":
            (here / "in" / name).symlink_to("gone")
        elif name == "fifo.jpg":
            os.mkfifo(here / "in" / name)
        else:
            (here / "in" / name).write_bytes((here / "in/a.jpg").read_bytes())
    (here / "in/empty.jpg").touch()  # an image's name: damaged, so it fails
    report = run("input=in", "output=out", "quiet=false")
    assert (report.exit_status, report.counts) == (3, {"done": 2, "failed": 1})
    listed = lines(Path("out/skipped.jsonl"))
    assert {
        os.fsdecode(base64.b64decode(line["path_b64"])) if "path_b64" in line else line["path"]:
        line["reason"] for line in listed
    } == expected  # fmt: skip
    assert [line["message"] for line in lines(Path("out/failures.jsonl"))] == ["empty file"]
    counted = record(Path("out"))["skipped"]
    assert counted == report.skipped
    assert (counted[PSD], counted[NO_EXTENSION], sum(counted.values())) == (3, 2, len(expected))
    shown = capfd.readouterr()
    assert "skipped: 3 unsupported image format (.psd), 2 not an image (no ext" in shown.out
    assert "skipped" not in shown.err
    run("input=in", "output=out", "runner=plan")
    planned = capfd.readouterr().out
    assert "would fail: empty file" in planned
    assert "To do" in planned


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], "there is no image in in"),
        (
            ["a.psd", "b.psd", "photo"],
            f"there is no image in in; skipped: 2 {PSD}, 1 {NO_EXTENSION}",
        ),
        ([".DS_Store"], "there is no image in in; skipped: 1 hidden"),
        ([f"frame.{i:03d}" for i in range(9)], "4 for other reasons"),
    ],
)
def test_an_input_without_images(
    here: Path, capfd: pytest.CaptureFixture[str], names: list[str], told: str
) -> None:
    (here / "in").mkdir()
    for name in names:
        (here / "in" / name).touch()
    report = run("input=in", "output=out")
    assert (report.exit_status, report.counts) == (0, {"done": 0, "failed": 0})
    assert told in capfd.readouterr().err
    assert len(lines(Path("out/skipped.jsonl"))) == len(names)


def test_the_list_is_of_the_last_look(here: Path) -> None:
    write_images(here / "in", "a.png")
    (here / "in/a.psd").touch()
    run("input=in", "output=out")
    (here / "in/a.psd").unlink()
    report = run("input=in", "output=out")  # nothing to do, and yet
    assert (report.skipped, lines(Path("out/skipped.jsonl"))) == ({}, [])


def test_the_extra_that_is_missing(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "_is_installed", lambda package: package != "pillow_heif")
    scan._no_image_has.cache_clear()
    write_images(here / "in", "a.png")
    for name in ("b.heic", "c.HEIC", "d.heif"):
        (here / "in" / name).touch()
    run("input=in", "output=out", "quiet=false")
    reason = "unsupported image format (.heic needs the extra heif)"
    assert f"skipped: 2 {reason}" in " ".join(capfd.readouterr().out.split())
    assert lines(Path("out/skipped.jsonl"))[0] == {"path": "b.heic", "reason": reason}
    run("input=in", "output=out", "runner=plan")
    assert ".heic needs the extra heif" in " ".join(capfd.readouterr().out.split())
    scan._no_image_has.cache_clear()


def test_entries_listed_twice(here: Path) -> None:
    write_images(here, "a.png")
    (here / "x.txt").write_text("a.png\n./a.png\n")
    run("input=x.txt", "output=out")
    assert lines(Path("out/skipped.jsonl")) == [{"path": "a.png", "reason": "listed twice"}]


def test_a_million_are_written_one_by_one(tmp_path: Path) -> None:
    entries = (Skipped(f"{i}.x", "not an image (.x)") for i in range(20_000))
    assert write_skipped(tmp_path, entries) == {"not an image (.x)": 20_000}
    assert (tmp_path / "skipped.jsonl").read_bytes().count(b"\n") == 20_000
    assert asset_keys("a", "path") == {"path": "a"}


def test_counts_of_a_run_and_of_the_output(here: Path) -> None:
    out = Path("out")
    write_images(here / "in", "a.png", "b.png")
    (here / "in/bad.png").write_bytes(b"no image")

    def counts() -> tuple[dict[str, int], dict[str, int]]:
        assert run("input=in", "output=out").totals == record(out)["totals"]
        return record(out)["counts"], record(out)["totals"]

    assert counts() == ({"done": 2, "failed": 1}, {"done": 2, "failed": 1})
    assert counts() == ({"done": 0, "failed": 1, "earlier": 2}, {"done": 2, "failed": 1})
    write_images(here / "in", "c.png", "d.png", "e.png")
    assert counts() == ({"done": 3, "failed": 1, "earlier": 2}, {"done": 5, "failed": 1})
    (here / "in/a.png").unlink()
    (here / "in/bad.png").unlink()
    assert counts() == (
        {"done": 0, "failed": 0, "earlier": 4, "removed": 1},
        {"done": 5, "failed": 0},
    )


def test_a_watch_that_moved_its_files(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_images(here / "in", *(f"{i}.png" for i in range(6)))
    (here / "in/a.psd").touch()
    watch = ("runner=watch", "runner.max_passes=1", "runner.settle_s=0", "runner.events=false",
             "runner.after=move", "input=in", "output=out", "quiet=false")  # fmt: skip
    assert run(*watch).counts == {"done": 6, "failed": 0}
    capfd.readouterr()
    report = run(*watch)
    assert (report.counts, report.totals) == ({"done": 0, "failed": 0}, {"done": 6, "failed": 0})
    shown = capfd.readouterr().out
    assert "nothing to do: no new input" in shown
    assert "in the output: 6 done" in shown
    assert record(Path("out"))["skipped"][PSD] == 1


@pytest.mark.parametrize("name", ["x.txt", "x.csv"])
def test_what_the_system_refuses_fails_alone(
    here: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    write_images(here, "good.png", "also.png")
    (here / "loop").symlink_to("loop")
    bad = ["a\0b.png", "\0", "n" * 300 + ".png", "d/" * 3000 + "x.png", "loop/x.png", "good.png/x",
           "gone/../good.png", "also.png\0", ".", "caf\udce9.png"]  # fmt: skip
    entries = ["path"] * (name == "x.csv") + ["good.png", *bad, "also.png"]
    (here / name).write_bytes("\n".join(entries).encode(errors="surrogateescape"))
    run(f"input={name}", "output=out", "runner=plan")
    assert "would fail" in capfd.readouterr().out
    for _ in range(2):  # also when it is resumed
        report = run(f"input={name}", "output=out", "sink=[coco,overlay]")
        assert (report.exit_status, report.counts["failed"]) == (3, len(bad))
        assert list(results(Path("out"))) == ["good.png", "also.png"]
        assert len({line["asset"] for line in lines(Path("out/failures.jsonl"))}) == len(bad)
