"""Which input the results in an output are of: others are refused, or added without loss."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from batches import job_of, lines, record, results, run, write_images

from pipeline.errors import ConfigError
from runners.rundir.ledger.ledger import Ledger

OUT, OVERLAY = "output=out", "sink=[coco,overlay]"
EXTEND, RESTART = "runner.on_change=extend", "runner.on_change=restart"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: ``a`` and ``b`` hold different images of the same names."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path, "a/x.png", "a/sub/y.png", value=1)
    write_images(tmp_path, "b/x.png", "b/z.png", value=2)
    (tmp_path / "to_a").symlink_to("a")
    (tmp_path / "x.txt").write_text("a/x.png\n")
    (tmp_path / "y.txt").write_text("b/x.png\n")
    return tmp_path


@pytest.mark.parametrize(
    ("first", "again"),
    [
        ("a", "{here}/a"),
        ("a", "a/"),
        ("a", "./b/../a//"),
        ("a", "~/a"),
        ("a", "to_a"),
        ("to_a", "a"),
        ("a", "[a]"),
        ("[a/x.png,b]", "[{here}/a/x.png,b/]"),
        ("a/x.png", "to_a/x.png"),
        ("a/*.png", "{here}/to_a/*.png"),
        ("x.txt", "{here}/x.txt"),
    ],
)
def test_one_input_however_it_is_spelled(
    here: Path, monkeypatch: pytest.MonkeyPatch, first: str, again: str
) -> None:
    monkeypatch.setenv("HOME", str(here))
    done = run(f"input={first}", OUT).counts["done"]
    (here / "a/.hidden").touch()
    report = run(f"input={again.format(here=here)}", OUT)
    assert report.counts == {"done": 0, "failed": 0, "earlier": done}


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ("a", "b"),
        ("a", "a/sub"),
        ("a", "a/x.png"),
        ("a/x.png", "b/x.png"),
        ("a", "a/*.png"),
        ("a/*.png", "a/**/*.png"),
        ("a", "x.txt"),
        ("x.txt", "y.txt"),
        ("a", "[a,b]"),
        ("[a,b]", "[b,a]"),
        ("[a,b]", "a"),
    ],
)
def test_another_input_is_refused(here: Path, first: str, other: str) -> None:
    run(f"input={first}", OUT)
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="holds results of another input") as told:
        run(f"input={other}", OUT)
    for name in {*first.strip("[]").split(","), *other.strip("[]").split(",")}:
        assert str(here / name) in str(told.value)
    for way in (EXTEND, RESTART, "choose another output"):
        assert way in str(told.value)
    after = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed <= {"run.log", "status.json", ".lock", "ledger.sqlite"}


def test_restart_begins_with_the_other_input(here: Path) -> None:
    run("input=a", OUT, OVERLAY)
    run("input=b", OUT, RESTART, OVERLAY)
    assert results(Path("out")) == {"x.png": (16, 22), "z.png": (17, 22)}
    assert {path.name for path in Path("out/overlay").iterdir()} == {"x.png.jpg", "z.png.jpg"}


def test_extend_keeps_both(here: Path) -> None:
    run("input=a", OUT, OVERLAY)
    report = run("input=b", OUT, EXTEND, OVERLAY)
    assert report.counts == {"done": 2, "failed": 0}
    assert report.totals == {"done": 4, "failed": 0}
    both = results(Path("out"))
    (renamed,) = (asset for asset in both if asset.startswith("b~"))
    assert renamed.endswith("/x.png")
    assert list(both.items()) == [
        ("sub/y.png", (17, 21)), ("x.png", (16, 21)), (renamed, (16, 22)), ("z.png", (17, 22)),
    ]  # fmt: skip
    assert Path(f"out/overlay/{renamed}.jpg").exists()
    assert len(lines(Path("out/inputs.jsonl"))) == 4
    before = Path("out/predictions.jsonl").read_bytes()
    for given in ("a", "b", "a"):  # both are known now, and neither takes the other's results
        report = run(f"input={given}", OUT, OVERLAY)
        assert report.counts == {"done": 0, "failed": 0, "earlier": 2}
    assert Path("out/predictions.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match="another input"):
        run("input=a/sub", OUT, OVERLAY)


def test_each_input_of_an_extended_output_changes_on_its_own(here: Path) -> None:
    run("input=a", OUT)
    run("input=b", OUT, EXTEND)
    write_images(here, "b/x.png", "b/sub/y.png", value=3)
    write_images(here, "a/z.png", value=4)  # a name that b used before
    (here / "b/z.png").unlink()
    assert run("input=b", OUT).counts == {"done": 2, "failed": 0, "removed": 1}
    assert run("input=a", OUT).counts == {"done": 1, "failed": 0, "earlier": 2}
    sizes = sorted(results(Path("out")).items(), key=lambda item: item[0].split("/")[-1])
    assert [size for _, size in sizes] == [
        (16, 21),
        (16, 23),
        (17, 21),
        (17, 23),
        (16, 24),
        (17, 22),
    ]
    assert {asset for asset, _ in sizes if "~" not in asset} == {"x.png", "sub/y.png", "z.png"}


def test_failures_are_each_inputs_own(here: Path) -> None:
    (here / "a/bad.png").write_bytes(b"no image")
    assert run("input=a", OUT).exit_status == 3
    report = run("input=b", OUT, EXTEND)
    assert (report.exit_status, report.totals) == (0, {"done": 4, "failed": 1})
    assert [line["asset"] for line in lines(Path("out/failures.jsonl"))] == ["bad.png"]
    shutil.copy("b/x.png", "b/bad.png")  # the id of a failure of the other input
    assert run("input=b", OUT).counts["done"] == 1
    assert [line["asset"] for line in lines(Path("out/failures.jsonl"))] == ["bad.png"]


def test_a_folder_that_was_renamed(here: Path) -> None:
    run("input=a", OUT)
    (here / "a").rename("c")
    before = results(Path("out"))
    assert run("input=c", OUT, EXTEND).counts == {"done": 0, "failed": 0, "earlier": 2}
    assert results(Path("out")) == before


@pytest.mark.parametrize(
    ("known", "more"), [("a", "[a,b]"), ("[a,b]", "b"), ("[a,b]", "[b,x.txt]")]
)
def test_what_is_in_the_output_is_not_added_again(here: Path, known: str, more: str) -> None:
    run(f"input={known}", OUT)
    with pytest.raises(ConfigError, match=", under other ids"):
        run(f"input={more}", OUT, EXTEND)


def test_lists_relative_to_where_they_are_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stdin(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))

    out = f"output={here}/out"
    stdin(f"{here}/a/sub/y.png\n")
    run("input=-", out)
    stdin("x.png\n")
    monkeypatch.chdir(here / "a")
    assert run("input=-", out).counts["done"] == 1  # its first relative path
    monkeypatch.chdir(here / "b")
    stdin("x.png\n./x.png")
    with pytest.raises(ConfigError, match=f"relative to {here}/a.* relative to {here}/b"):
        run("input=-", out)
    assert run("input=-", out, EXTEND).counts["done"] == 1
    assert sorted(results(here / "out").values()) == [(16, 21), (16, 22), (17, 21)]


def test_a_list_whose_entries_are_beside_it_or_missing(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "x.txt").write_text("a/x.png\ngone.png\n")
    out = f"output={here}/out"
    for folder in (here, here / "a", here / "b"):
        monkeypatch.chdir(folder)
        assert run(f"input={here}/x.txt", out).counts["failed"] == 1
        assert list(results(here / "out")) == ["a/x.png"]


def test_an_output_of_an_earlier_version(here: Path) -> None:
    run("input=a", OUT)
    with Ledger(Path("out/ledger.sqlite")) as ledger:
        ledger.set_fact("inputs", None)
        ledger.commit()
    assert run("input=a", OUT).counts["earlier"] == 2
    with pytest.raises(ConfigError, match="another input"):
        run("input=b", OUT)


def test_an_output_without_results(here: Path) -> None:
    (here / "empty").mkdir()
    run("input=empty", OUT)
    assert run("input=a", OUT).counts["done"] == 2


def test_repair_remembers_the_input(here: Path) -> None:
    run("input=a", OUT)
    run("input=b", OUT, EXTEND)
    before = Path("out/predictions.jsonl").read_bytes()
    Path("out/ledger.sqlite").unlink()
    run("input=b", OUT, "runner=repair")
    with pytest.raises(ConfigError, match="another input"):
        run("input=a/sub", OUT)
    for given in ("a", "b"):
        assert run(f"input={given}", OUT).counts["done"] == 0
    assert sorted(Path("out/predictions.jsonl").read_bytes()) == sorted(before)
    assert len(record(Path("out"))["inputs"]) == 2


def test_a_watch_has_one_folder(here: Path) -> None:
    watch = ("runner=watch", "runner.max_passes=1", "runner.settle_s=0", "runner.events=false")
    assert run("input=a", OUT, *watch).counts["done"] == 2
    assert run("input=to_a", OUT, *watch).counts["done"] == 0
    with pytest.raises(ConfigError, match="another input") as told:
        run("input=b", OUT, *watch)
    assert "extend" not in str(told.value)
    with pytest.raises(ConfigError, match="on_change: expected error or restart, got 'extend'"):
        job_of("input=b", OUT, *watch, EXTEND)
    assert run("input=a", OUT).counts["earlier"] == 2  # a batch over the same folder
    run("input=b", OUT, EXTEND)
    with pytest.raises(ConfigError, match="holds results of several inputs"):
        run("input=a", OUT, *watch)
    with pytest.raises(ConfigError, match="watches one folder, got a list"):
        run("input=[a,b]", OUT, *watch)


def test_plan_knows_the_input(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run("input=a", OUT)
    assert run("input=a", OUT, "runner=plan").exit_status == 0
    assert "already done" in capfd.readouterr().out
    refused = run("input=b", OUT, "runner=plan")
    assert refused.exit_status == 2
    assert refused.message.startswith("the run would be refused: ")
    assert "another input" in refused.message
    assert "To do" in capfd.readouterr().out
