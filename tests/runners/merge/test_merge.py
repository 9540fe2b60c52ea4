"""``runner.shard`` and ``runner=merge``: the bytes of one run, and the refusals by name."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batches import job_of, lines, record, run, write_images

from pipeline.errors import ConfigError, OutputError, OutputLockedError
from pipeline.sharding import Shard, parse_shard, shard_of
from runners.merge.outputs import check_files
from runners.merge.shards import ShardRun
from runners.rundir.lock import locked

N = 3
OUT = Path("out")
SHARD = {i: OUT / "shards" / f"{i}-of-{N}" for i in range(1, N + 1)}
SINKS = "sink=[overlay,coco,yolo]"
# of when and where the run was, not of its results
OF_THE_RUN = {"run.json", "run.log", "ledger.sqlite", ".lock", "status.json"}


def write_inputs() -> None:
    names = [f"{i}.png" for i in range(9)]
    write_images(Path("in"), *names, *(f"sub/{name}" for name in names))
    Path("in/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    Path("in/notes.txt").write_text("no image")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_inputs()
    return tmp_path


def batch(*more: str, output: str = "out") -> int:
    return run(SINKS, "input=in", f"output={output}", *more).exit_status


def run_shards(*more: str, of: int = N) -> list[int]:
    return [batch(f"runner.shard={i}/{of}", *more) for i in range(1, of + 1)]


def merge(*more: str) -> int:
    return run("runner=merge", "output=out", *more).exit_status


def files(out: Path) -> dict[str, bytes]:
    """Return the content of all files that do not say when the run was."""
    found = [path for path in out.rglob("*") if path.is_file()]
    named = {path.relative_to(out).as_posix(): path for path in found}
    return {
        name: path.read_bytes()
        for name, path in named.items()
        if name not in OF_THE_RUN and not name.startswith(("shards/", ".hydra/"))
    }


def snapshot(out: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in out.rglob("*")
        if path.is_file() and path.name not in ("run.log", "status.json", ".lock")
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three finished shards, and the single run; the broken image fails in one shard."""
    work = tmp_path_factory.mktemp("finished") / "work"  # where every test finds them
    work.mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(work)
        write_inputs()
        assert sorted(run_shards()) == [0, 0, 3]
        assert batch(output="single") == 3
    return work.rename(work.parent / "kept")


@pytest.fixture
def shards(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work = finished.parent / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(finished, work, symlinks=True)
    monkeypatch.chdir(work)
    return work


def test_as_one_run(shards: Path) -> None:
    assert not (SHARD[1] / "coco.json").exists()  # an aggregate is built once, by the merge
    assert merge() == 3
    single = files(Path("single"))
    assert {"coco.json", "failures.jsonl", "overlay/0.png.jpg", "manifest.sha256"} <= set(single)
    assert files(OUT) == single
    merged = record(OUT)
    assert [each["shard"] for each in merged["shards"]] == ["1/3", "2/3", "3/3"]
    assert merged["totals"] == {"done": 18, "failed": 1} == merged["counts"]
    assert merged["skipped"] == record(Path("single"))["skipped"] != {}
    for key in ("fingerprint", "settings", "inputs", "outputs", "model"):
        assert merged[key] == record(Path("single"))[key], key
    overlay = OUT / "overlay" / "0.png.jpg"
    assert overlay.stat().st_nlink == 2  # takes no space
    before = snapshot(OUT)
    assert merge() == 3
    assert snapshot(OUT) == before
    report = run(SINKS, "input=in", "output=out")  # the unsharded command has nothing to do
    assert (report.counts, report.rebuilt) == ({"done": 0, "failed": 1, "earlier": 18}, False)
    assert files(OUT) == single


def test_merged_without_hard_links(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", refuse)
        merge()
    assert (OUT / "overlay" / "0.png.jpg").stat().st_nlink == 1
    assert files(OUT) == files(Path("single"))


def test_new_removed_and_changed_inputs(shards: Path) -> None:
    merge()
    Path("in/3.png").rename("in/zz.png")
    write_images(Path("in"), "4.png", value=9)
    run_shards("runner.prune=true")
    assert merge() == 3
    batch("runner.prune=true", output="single")
    assert files(OUT) == files(Path("single"))


def test_an_input_with_its_own_image_ids_and_names_that_collide(here: Path) -> None:
    write_images(Path("in"), "x.png", "x.jpg", "x.png.d/x.png", "y/x.png")
    images = [
        {"id": 100 - i, "file_name": name, "width": 1, "height": 1}
        for i, name in enumerate(["y/x.png", "x.jpg", "x.png", "x.png.d/x.png", "5.png"])
    ]
    Path("set.json").write_text(json.dumps({"images": images}))
    coco = ("input=set.json", "source.root=in")
    for i in range(1, 3):
        assert batch(f"runner.shard={i}/2", *coco) == 0
    merge()
    batch(*coco, output="single")
    assert files(OUT) == files(Path("single"))
    assert [line["image_id"] for line in lines(OUT / "predictions.jsonl")] == [100, 99, 98, 97, 96]


def test_more_shards_than_inputs_and_no_input(here: Path) -> None:
    shutil.rmtree("in/sub")
    for i in range(7):
        Path(f"in/{i}.png").unlink()
    assert max(run_shards(of=6)) == 3
    assert merge() == 3
    batch(output="single")
    assert files(OUT) == files(Path("single"))
    shutil.rmtree("out")
    shutil.rmtree("in")
    Path("in").mkdir()
    assert run_shards() == [0] * N
    assert merge() == 0
    assert lines(OUT / "inputs.jsonl") == []


def refused(match: str, error: type[Exception] = ConfigError, *more: str) -> None:
    with pytest.raises(error, match=match) as caught:
        merge(*more)
    assert "\n" not in str(caught.value)


def test_nothing_to_merge(here: Path) -> None:
    refused(r"^there is nothing to merge in .*/out/shards; run each shard with runner.shard=k/n")
    assert not OUT.exists()


def remove() -> None:
    shutil.rmtree(SHARD[2])


def stop() -> None:
    shutil.rmtree(SHARD[2])
    batch("runner.shard=2/3", "runner.max_failures=0", "input=broken")


def interrupt() -> None:
    changed = record(SHARD[2]) | {"state": "running"}
    (SHARD[2] / "run.json").write_text(json.dumps(changed))


def other_settings() -> None:
    batch("runner.shard=2/3", "runner.on_change=restart", "stage.min_score.threshold=0.9")


def other_input() -> None:
    shutil.copytree("in", "elsewhere/in")
    batch("runner.shard=2/3", "runner.on_change=restart", "input=elsewhere/in")


def new_input() -> None:
    write_images(Path("in"), "new.png")
    batch("runner.shard=2/3")


def copied() -> None:
    shutil.rmtree(SHARD[2])
    shutil.copytree(SHARD[1], SHARD[2])


def foreign_result() -> None:
    copied()
    changed = record(SHARD[2])
    changed["shard"] |= {"index": 2}
    (SHARD[2] / "run.json").write_text(json.dumps(changed))


def division() -> None:
    batch("runner.shard=2/4")


def unsharded() -> None:
    shutil.rmtree(SHARD[2])
    batch(output=str(SHARD[2]))


def never_started() -> None:
    shutil.rmtree(SHARD[2])
    SHARD[2].mkdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove, r"^shards are missing in .*/out/shards: 2/3; run each, such as runner.shard=2/3"),
        (never_started, r"^shard 2/3 has not finished: .*/2-of-3 has no run.json; run it with"),
        (interrupt, r"^shard 2/3 \(.*/2-of-3\) has not finished: it was interrupted; run it again"),
        (other_settings, r"^shard 2/3 \(.*\) has other settings than shard 1/3 \(stage.min_score."),
        (other_input, r"^shard 2/3 \(.*\) is of another input than shard 1/3: it is .*/elsewhere/"),
        (new_input, r"^shard 2/3 \(.*\) listed other files \(20 inputs\) than shard 1/3 .*\(19 in"),
        (copied, r"^shard 2/3 \(.*\) holds shard 1/3, so it overlaps .*/1-of-3; remove it and run"),
        (foreign_result, r"^shard 2/3 \(.*\) overlaps shard 1/3, to which its result of '.*' bel"),
        (
            division,
            r"holds shards of different divisions, 1-of-3 and 2-of-4, which overlap; remove",
        ),
        (unsharded, r"^shard 2/3 \(.*\) was not run as a shard; run it with runner.shard=2/3"),
    ],
)
def test_refused_by_name(shards: Path, change: Callable[[], None], message: str) -> None:
    change()
    refused(message)
    assert {path.name for path in OUT.iterdir()} == {"shards"}


def test_a_shard_that_stopped_at_its_failure_budget(here: Path) -> None:
    statuses = run_shards("runner.max_failures=0")
    index = statuses.index(4) + 1
    refused(rf"^shard {index}/3 \(.*\) has not finished: it ended with exit status 4; run it again")
    batch(f"runner.shard={index}/3")
    assert merge() == 3


def test_a_shard_that_is_running(shards: Path) -> None:
    with locked(SHARD[2].absolute()):
        refused(r"another run holds .*2-of-3", OutputLockedError)


def test_a_shard_that_was_modified(shards: Path) -> None:
    path = SHARD[2] / "predictions.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"frame": 0', b'"frame": 1', 1))
    refused(r"shard 2/3 \(.*\): predictions.jsonl was modified by another program", OutputError)
    assert not (OUT / "predictions.jsonl").exists()


def test_an_output_with_other_results(shards: Path) -> None:
    shutil.move("out/shards", "kept")
    batch()
    shutil.move("kept", "out/shards")
    refused(r"/out holds other results than those of shards/; set runner.on_change=restart")
    assert merge("runner.on_change=restart") == 3
    assert files(OUT) == files(Path("single"))
    write_images(Path("in"), "new.png")
    batch()  # the unsharded command adds an input
    assert merge() == 3  # the shards are as they were: nothing to do
    assert len(lines(OUT / "inputs.jsonl")) == 20
    run_shards()
    refused(r"/out holds results that were added later than those of shards/; set runner.on_ch")


def test_files_of_another_program_are_not_replaced(shards: Path) -> None:
    (OUT / "coco.json").write_text("mine")
    refused(r"/out holds coco.json, which no run of d2run wrote; choose another output")
    assert (OUT / "coco.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("runner.shard=0/3",), r"^runner.shard: expected k/n, such as 1/8 .*, got '0/3'"),
        (("runner.shard=4/3",), r"^runner.shard: 4/3 is none of the shards 1/3 to 3/3"),
        (("runner.shard=2",), r"^runner.shard: expected k/n, .*, got 2"),
        (("runner.shard=1/3", "runner.on_change=extend"), r"^runner.on_change: extend does not ap"),
        (("runner.shard=1/3", "output=in/out"), r"^runner.shard: the output is in the input .*/in"),
        (
            ("runner.shard=1/3", "input=rtsp://127.0.0.1:9/x"),
            r"^runner.shard: it does not apply to a stream",
        ),
        (
            ("runner.shard=1/3", "output=${hydra:runtime.output_dir}"),
            r"^runner.shard: the shards share an output directory; add output=DIR",
        ),
        (("runner=merge", "runner.on_change=extend"), r"on_change: expected error or restart, got"),
    ],
)
def test_options(here: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run("input=in", "output=out", *arguments)
    assert "\n" not in str(caught.value)
    assert not OUT.exists()


class OneFile:
    """A sink that writes one file over the whole run."""

    outputs = ("all.txt",)

    def __enter__(self) -> OneFile:
        return self

    def __exit__(self, *exc_info: object) -> None: ...

    def begin(self, asset: object) -> None: ...

    def write(self, result: object) -> None: ...

    def flush(self, asset: object) -> None: ...

    def discard(self, asset: object) -> None: ...


def test_a_sink_of_one_file_cannot_be_merged(shards: Path) -> None:
    job = job_of("input=in", "output=out", "runner.shard=1/3")
    job.sinks["all"] = OneFile()
    runs: list[Any] = [ShardRun(Shard(i, 2), SHARD[i], 2) for i in (1, 2)]
    for each, digest in zip(runs, "ab", strict=True):
        each.digests = {"all.txt": digest}
    match = (
        r"^sink.all writes all.txt over the whole run, and that of shard 2/2 \(.*\) differs from"
    )
    with pytest.raises(ConfigError, match=match):
        check_files(job, runs)


def test_what_a_webhook_has_not_delivered_stays_with_its_shard(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("in/sub")
    arguments = ("sink=[webhook,overlay]", "input=in", "sink.webhook.drain_s=0")
    arguments += ("sink.webhook.url=http://127.0.0.1:9/",)  # nobody listens
    for i in (1, 2):
        run(*arguments, "output=out", f"runner.shard={i}/2")
    left = {i: sorted(OUT.glob(f"shards/{i}-of-2/webhook/*")) for i in (1, 2)}
    capsys.readouterr()
    assert merge() == 3
    printed = " ".join(capsys.readouterr().err.split())
    assert not (OUT / "webhook").exists()
    assert {i: sorted(OUT.glob(f"shards/{i}-of-2/webhook/*")) for i in (1, 2)} == left
    assert len(left[1] + left[2]) == 9
    warnings = record(OUT)["warnings"]
    for i, names in left.items():
        (text,) = (each for each in warnings if f"runner.shard={i}/2" in each)
        assert text.startswith(f"{len(names)} inputs of shard {i}/2 (")
        assert f"warning: {text}" in printed
    run(*arguments, "output=out")  # has nothing to post, nor to process
    assert not (OUT / "webhook").exists()


def test_the_page_is_named(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("sink=[report]", "input=in", "output=paged")
    for i in (1, 2):
        run(*arguments, f"runner.shard={i}/2")
    capsys.readouterr()
    for expected in ("merged 2 shards: 18 done, 1 failed", "nothing to do: 18 done, 1 failed"):
        run("runner=merge", "output=paged", "quiet=false")
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == expected
        assert printed[1].startswith("results in ")
        assert printed[2].startswith("look at them in ")
        assert printed[2].endswith("/paged/report.html")


def test_foreign_files_beside_and_in_shards(shards: Path) -> None:
    (OUT / "shards" / "notes.txt").write_text("mine")
    (OUT / "shards" / "old-1-of-9").mkdir()
    (SHARD[1] / "notes.txt").write_text("mine")
    (SHARD[1] / "more").mkdir()
    assert merge() == 3
    assert files(OUT) == files(Path("single"))
    assert (SHARD[1] / "notes.txt").read_text() == "mine"


def test_standard_input_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"in/1.png\n")))
    with pytest.raises(ConfigError, match=r"^runner.shard: .* standard input is read only once; w"):
        run("input=-", "output=out", "runner.shard=1/3")


def test_the_hash_is_the_documented_one() -> None:
    assert [shard_of(name, 8) for name in ("a.jpg", "b/a.jpg", "\udcff.png")] == [3, 1, 6]
    counts = [0] * 8
    for i in range(8000):
        counts[shard_of(f"{i}.jpg", 8) - 1] += 1
    assert all(900 < n < 1100 for n in counts)
    assert parse_shard("12/100") == Shard(12, 100)
    assert str(Shard(12, 100).directory(Path("out"))) == "out/shards/12-of-100"


def test_a_shard_is_planned_and_repaired(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(Path("in"), *(f"new/{i}.png" for i in range(20)))
    planned = [
        run("runner=plan", f"runner.shard={i}/3", SINKS, "input=in", "output=out").counts["planned"]
        for i in range(1, N + 1)
    ]
    assert sum(planned) == 21  # with the one that failed before
    assert all(planned)
    capsys.readouterr()
    shutil.rmtree("in/new")
    (SHARD[2] / "ledger.sqlite").write_bytes(b"no")
    with pytest.raises(OutputError, match="run the same command with runner=repair"):
        batch("runner.shard=2/3")
    run("runner=repair", "runner.shard=2/3", SINKS, "input=in", "output=out")
    batch("runner.shard=2/3")
    assert merge() == 3
    assert files(OUT) == files(Path("single"))
