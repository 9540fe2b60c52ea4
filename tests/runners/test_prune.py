"""``runner.prune``: results of inputs that no longer exist go, whenever the run is killed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batches import lines, record, results, run, write_images

from pipeline.errors import ConfigError
from pipeline.sinks.overlay import Overlay
from runners.rundir import commit, input_order
from runners.rundir.ledger.ledger import Ledger

SINKS = "sink=[overlay,coco]"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "in", *(f"{i}.png" for i in range(4)), "sub/a.png", "sub/b.png")
    return tmp_path


def batch(*more: str, output: str = "out") -> dict[str, int]:
    return dict(run(SINKS, "input=in", f"output={output}", *more).counts)


def files(out: str) -> dict[str, bytes]:
    """Return the content of all files that do not say when the run was."""
    names = ("*.jsonl", "coco*.json", "overlay/**/*.jpg")
    found = [path for name in names for path in Path(out).glob(name)]
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def rename_and_remove() -> None:
    Path("in/1.png").rename("in/9.png")
    Path("in/sub/a.png").unlink()


def test_as_a_first_run_over_what_is_left(here: Path) -> None:
    batch()
    rename_and_remove()
    assert batch("runner.prune=true") == {"done": 1, "failed": 0, "earlier": 4, "pruned": 2}
    assert record(Path("out"))["warnings"] == []
    batch(output="fresh")
    assert files("out") == files("fresh")
    assert batch("runner.prune=true") == {"done": 0, "failed": 0, "earlier": 5}


def test_without_it_the_warning_names_it(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    batch()
    rename_and_remove()
    assert batch() == {"done": 1, "failed": 0, "earlier": 4, "removed": 2}
    kept = "2 inputs of an earlier run no longer exist; their results are kept"
    assert f"{kept} (runner.prune=true removes them)" in capfd.readouterr().err
    assert len(results(Path("out"))) == 7
    assert batch("runner.prune=true", "quiet=false")["pruned"] == 2  # nothing else to do
    assert "2 removed from the output" in capfd.readouterr().out
    assert len(results(Path("out"))) == 5


def test_an_empty_input_is_refused(here: Path) -> None:
    batch()
    before = files("out")
    shutil.rmtree("in")
    Path("in").mkdir()  # a mount point without its disk
    with pytest.raises(
        ConfigError, match=r"^prune: there is no image in in, so all of its results"
    ):
        batch("runner.prune=true")
    assert files("out") == before
    assert batch("runner.prune=all") == {"done": 0, "failed": 0, "pruned": 6}
    assert (results(Path("out")), list(Path("out/overlay").glob("**/*.jpg"))) == ({}, [])
    assert batch("runner.prune=true") == {"done": 0, "failed": 0}


def test_one_of_several_inputs_is_empty(here: Path) -> None:
    write_images(here / "more", "x.png", value=7)
    several = ("input=[in,more]", "output=out", "runner.prune=true")
    run(*several)
    Path("more/x.png").unlink()
    with pytest.raises(ConfigError, match=r"^prune: there is no image in more, so"):
        run(*several)
    assert run("input=[in,more]", "output=out", "runner.prune=all").counts["pruned"] == 1


def test_an_unreadable_directory_may_hide_inputs(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.sources import scan

    def folder(walk: Any, folder_id: str) -> None:
        if folder_id == "sub/":
            raise PermissionError(13, "denied")
        real(walk, folder_id)

    batch()
    real = scan._Walk.folder
    monkeypatch.setattr(scan._Walk, "folder", folder)
    Path("in/1.png").unlink()
    counts = batch("runner.prune=true")
    assert (counts["earlier"], counts["removed"], counts["pruned"]) == (3, 2, 1)
    assert {"sub/a.png", "sub/b.png"} < set(results(Path("out")))


def test_a_listed_file_that_is_gone_is_kept(here: Path) -> None:
    Path("x.txt").write_text("in/0.png\nin/1.png\nin/2.png\n")
    arguments = ("input=x.txt", "output=out", "runner.prune=true")
    run(*arguments)
    Path("in/0.png").unlink()
    Path("x.txt").write_text("in/0.png\nin/2.png\n")
    assert dict(run(*arguments).counts) == {
        "done": 0, "failed": 0, "earlier": 2, "removed": 1, "pruned": 1,
    }  # fmt: skip
    assert set(results(Path("out"))) == {"in/0.png", "in/2.png"}


def test_results_of_another_input_are_kept(here: Path) -> None:
    write_images(here / "more", "x.png", value=7)
    batch()
    run(SINKS, "input=more", "output=out", "runner.on_change=extend")
    Path("in/0.png").unlink()
    assert batch("runner.prune=true")["pruned"] == 1
    assert set(results(Path("out"))) == {
        "1.png", "2.png", "3.png", "sub/a.png", "sub/b.png", "x.png",
    }  # fmt: skip


def test_failures_are_forgotten_as_before(here: Path) -> None:
    Path("in/bad.png").write_bytes(b"")
    assert batch()["failed"] == 1
    Path("in/bad.png").unlink()
    assert batch("runner.prune=true") == {"done": 0, "failed": 0, "earlier": 6}
    assert lines(Path("out/failures.jsonl")) == []


@pytest.mark.parametrize("value", ["maybe", "yes", "ALL"])
def test_another_value(value: str) -> None:
    with pytest.raises(ConfigError, match="prune: expected true, false or all, got"):
        batch(f"runner.prune={value}")


class Killed(BaseException):
    """Nothing handles it, as nothing handles SIGKILL."""


@pytest.mark.parametrize("then", ["true", "false"])
def test_killed_at_any_moment(here: Path, monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    batch()
    rename_and_remove()
    batch(output="fresh")
    shutil.copytree("out", "before")
    survived = 0
    while True:
        shutil.rmtree("out")
        shutil.copytree("before", "out")
        with monkeypatch.context() as patch:
            calls = _killing(patch, at=survived)
            try:
                batch("runner.prune=true")
            except Killed:
                pass
            else:
                break
        survived += 1
        counts = batch(f"runner.prune={then}")
        removed = counts.get("removed", 0)
        if then == "true":
            assert removed == 0
            assert files("out") == files("fresh")
        else:  # what is in the ledger is whole; what is not has left nothing
            assert len(results(Path("out"))) == 5 + removed
        shown = {path.relative_to("out/overlay") for path in Path("out/overlay").glob("**/*.jpg")}
        assert {str(path.with_suffix("")) for path in shown} == set(results(Path("out")))
    assert survived == len(calls) > 10


def _killing(patch: pytest.MonkeyPatch, at: int) -> list[str]:
    """Raise before the ``at``-th of the steps that change the output; return their names."""
    calls: list[str] = []

    def counted(owner: Any, name: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def step(*args: Any, **options: Any) -> Any:
            if len(calls) == at:
                raise Killed(name)
            calls.append(name)
            return real(*args, **options)

        patch.setattr(owner, name, step)

    for name in ("commit", "remove"):
        counted(Ledger, name)
    for name in ("discard", "sync"):
        counted(Overlay, name)
    counted(input_order, "rename")
    counted(commit.lists, "write_lists")
    counted(commit, "build_aggregates")
    return calls
