"""An output in an object store: the copy of a run directory, and what survives what."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import shelf
from batches import derived, job_of, record, run, write_images
from shelf import Shelf, objects

from pipeline.config.outputs import local_directory
from pipeline.errors import ConfigError, OutputError
from pipeline.system.output_folder import OutputFolder
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.remote import store as store_module
from runners.rundir.remote.store import ObjectStore
from runners.rundir.remote.uploads import Uploads

NAMES = [*(f"{i}.png" for i in range(6)), "sub/x.jpg"]
ADDRESS = "shelf://bucket/night"
JOB = ("device=cpu", "sink=[coco,overlay,crops]", "input=in", "runner.checkpoint_s=0")
INTERNAL = {".d2run/checkpoint.json", ".d2run/owner.json"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(store_module, "_PAUSES_S", (0.0, 0.0))
    shelf.set_up(tmp_path, monkeypatch)
    write_images(tmp_path / "in", *NAMES)
    (tmp_path / "in/5.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    return tmp_path


@pytest.fixture
def bucket(here: Path) -> Path:
    return here / "shelf/bucket/night"


@pytest.mark.usefixtures("here")
def test_in_the_memory_of_this_process() -> None:
    memory = fsspec.filesystem("memory")
    try:
        run(*JOB, "output=memory://bucket/night")
        run(*JOB, "output=out")
        found = {name.partition("/night/")[2]: memory.cat(name) for name in memory.find("/bucket")}
    finally:
        memory.rm("/bucket", recursive=True)
    expected = kept(Path("out"))
    assert {name: found.get(name) for name in expected} == expected
    assert json.loads(found["run.json"])["address"] == "memory://bucket/night"


def move(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Be another machine."""
    monkeypatch.setenv("D2RUN_HOME", name)
    monkeypatch.setattr("socket.gethostname", lambda: name)


def kept(folder: Path) -> dict[str, bytes]:
    """What two runs of the same job have in common."""
    files = objects(folder)
    with_times = ("run.json", "run.log", "status.json", "report.html", "ledger.sqlite", ".lock")
    return {
        name: data
        for name, data in files.items()
        if name not in with_times and not name.startswith((".d2run/", ".remote", ".hydra/"))
    }


def test_copy_is_the_run_directory(bucket: Path) -> None:
    job = (*JOB, "sink=[coco,overlay,crops,report]")
    local = run(*job, "output=out")
    remote = run(*job, f"output={ADDRESS}")
    assert remote.counts == local.counts == {"done": 6, "failed": 1}
    assert kept(bucket) == kept(Path("out")) == kept(local_directory(ADDRESS))
    assert "manifest.sha256" in kept(bucket)
    hidden = {".lock", ".remote.json"}
    assert objects(bucket).keys() - INTERNAL == objects(local_directory(ADDRESS)).keys() - hidden
    assert {name for name in objects(bucket) if name.startswith(".d2run/")} == INTERNAL
    there, here = record(bucket), record(Path("out"))
    assert there["address"] == ADDRESS
    assert (there["settings"], there["state"]) == (here["settings"], "ended")
    assert there["fingerprint"] == here["fingerprint"]


def test_a_downloaded_copy_is_a_run_directory(bucket: Path) -> None:
    run(*JOB, f"output={ADDRESS}")
    shutil.copytree(bucket, "copy")
    assert run(*JOB, "output=copy").counts == {"done": 0, "failed": 1, "earlier": 6}
    assert kept(Path("copy")) == kept(bucket)


def test_another_machine_continues(
    bucket: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*JOB, f"output={ADDRESS}")
    move(monkeypatch, "second")
    write_images(Path("in"), "0.png", value=9)  # changed
    write_images(Path("in"), "new.png")
    Path("in/sub/x.jpg").unlink()
    capsys.readouterr()
    report = run(*JOB, f"output={ADDRESS}", "runner.prune=true")
    assert report.counts == {"done": 2, "failed": 1, "earlier": 4, "pruned": 1}
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("restoring 35 ")
    assert f"files of '{ADDRESS}' from the checkpoint of " in line
    run(*JOB, "output=out")
    assert kept(bucket) == kept(Path("out"))
    assert not (bucket / "crops/sub").exists()
    monkeypatch.setenv("D2RUN_HOME", "home")  # the first machine is behind now
    assert run(*JOB, f"output={ADDRESS}").counts["earlier"] == 6
    assert "restoring" in capsys.readouterr().err
    assert run(*JOB, f"output={ADDRESS}").counts["earlier"] == 6
    assert "restoring" not in capsys.readouterr().err
    assert kept(bucket) == kept(Path("out"))


def test_outputs_are_uploaded_before_the_ledger_names_them(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, seen = Ledger.commit, set[str]()

    def checked(self: Ledger, *position: object) -> None:
        for entry in self.entries():
            if entry.outcome == "done":
                assert (bucket / f"overlay/{entry.id}.jpg").is_file()
                seen.add(entry.id)
        commit(self, *position)  # type: ignore[arg-type]

    monkeypatch.setattr(Ledger, "commit", checked)
    monkeypatch.setattr("runners.rundir.commit.GROUP", 2)
    run(*JOB, f"output={ADDRESS}")
    assert len(seen) == 6


def failing(when: Callable[[str], bool], error: Exception, times: int = 1 << 30) -> None:
    """Have requests fail."""
    left = times

    def fault(what: str) -> None:
        nonlocal left
        if left and when(what):
            left -= 1
            raise error

    Shelf.fault = fault


@pytest.mark.parametrize("k", [1, 2, 5, 16])
def test_a_store_that_fails_at_any_request(bucket: Path, here: Path, k: int) -> None:
    """The k-th upload, and all after it, fail: what is committed is kept, the next run goes on."""
    number = 0

    def nth(what: str) -> bool:
        nonlocal number
        number += what.startswith("put")
        return number >= k

    failing(nth, TimeoutError("no route to host"))
    with pytest.raises(OutputError) as caught:
        run(*JOB, f"output={ADDRESS}")
    assert f"in the output '{ADDRESS}': no route to host; what is committed is kept" in str(
        caught.value
    )
    assert caught.value.exit_status == 1
    Shelf.fault = None
    assert run(*JOB, f"output={ADDRESS}").exit_status == 3
    run(*JOB, "output=out")
    assert kept(bucket) == kept(Path("out"))


def test_a_store_that_fails_for_a_moment(bucket: Path, capfd: pytest.CaptureFixture[str]) -> None:
    failing(lambda what: True, TimeoutError("slow down"), times=2)
    assert run(*JOB, f"output={ADDRESS}").counts["done"] == 6
    said = [line for line in capfd.readouterr().err.splitlines() if "slow down" in line]
    assert said == [
        f"warning: cannot write .d2run/probe in the output '{ADDRESS}': slow down; trying again"
    ]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("Forbidden"), "no permission; check the credentials"),
        (FileNotFoundError("NoSuchBucket"), "no such bucket"),
        (NotImplementedError("read-only"), "read-only; choose another output"),
    ],
)
def test_what_is_wrong_for_good_is_known_at_once(error: Exception, message: str) -> None:
    failing(lambda what: what.startswith("put"), error, times=1)
    with pytest.raises(OutputError, match=message):
        run(*JOB, f"output={ADDRESS}")
    assert not local_directory(ADDRESS).joinpath("ledger.sqlite").exists()


def test_foreign_objects(bucket: Path, here: Path) -> None:
    (here / "shelf/bucket/night/overlay").mkdir(parents=True)
    (bucket / "overlay/mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=f"'{ADDRESS}' holds overlay/, which no run"):
        run(*JOB, f"output={ADDRESS}")
    shutil.rmtree(bucket)
    run(*JOB, f"output={ADDRESS}")
    (bucket / "overlay/mine.txt").write_text("mine")
    (bucket / "mine.txt").write_text("mine")
    run(*JOB, f"output={ADDRESS}", "stage.min_score.threshold=0.9", "runner.on_change=restart")
    run(*JOB, "output=out", "stage.min_score.threshold=0.9")
    mine = {"overlay/mine.txt": b"mine", "mine.txt": b"mine"}
    assert kept(bucket) == kept(Path("out")) | mine


def test_other_settings_name_the_address() -> None:
    run(*JOB, f"output={ADDRESS}")
    job = job_of(*JOB, f"output={ADDRESS}", "stage.min_score.threshold=0.9")
    with pytest.raises(ConfigError) as caught:
        job.runner.run(job)
    assert job.shown(str(caught.value)).startswith(f"{ADDRESS} holds results of other settings")


def test_two_machines_at_once(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one continues from the checkpoint; the first one is told so, and stops."""
    monkeypatch.setattr("runners.rundir.commit.GROUP", 2)
    commit, calls = Ledger.commit, 0

    def interrupted(self: Ledger, *position: object) -> None:
        nonlocal calls
        commit(self, *position)  # type: ignore[arg-type]
        calls += bool(position)
        if calls == 2:
            calls += 1
            with monkeypatch.context() as patch:
                move(patch, "second")
                patch.setattr(Ledger, "commit", commit)
                assert run(*JOB, f"output={ADDRESS}").exit_status == 3

    monkeypatch.setattr(Ledger, "commit", interrupted)
    with pytest.raises(
        OutputError, match=rf"second \(process {os.getpid()}\) writes to '{ADDRESS}"
    ):
        run(*JOB, f"output={ADDRESS}")
    monkeypatch.undo()
    os.environ["SHELF"], os.environ["D2RUN_HOME"] = str(bucket.parents[1]), "home"
    os.chdir(bucket.parents[2])
    assert run(*JOB, f"output={ADDRESS}").counts["earlier"] == 6
    run(*JOB, "output=out")
    assert kept(bucket) == kept(Path("out"))


def test_a_checkpoint_that_appears_while_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pipeline.runnables.fake import FakeRunnable

    enter = FakeRunnable.__enter__

    def late(self: FakeRunnable) -> FakeRunnable:
        monkeypatch.setattr(FakeRunnable, "__enter__", enter)
        with monkeypatch.context() as patch:
            move(patch, "second")
            run(*JOB, f"output={ADDRESS}")
        return enter(self)

    monkeypatch.setattr(FakeRunnable, "__enter__", late)
    with pytest.raises(OutputError, match=r"second .* writes to"):
        run(*JOB, f"output={ADDRESS}")


def test_a_damaged_copy(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(*JOB, f"output={ADDRESS}")
    move(monkeypatch, "second")
    predictions = (bucket / "predictions.jsonl").read_bytes()
    (bucket / "predictions.jsonl").write_bytes(b"x" + predictions[1:])
    with pytest.raises(OutputError, match=r"predictions\.jsonl is damaged"):
        run(*JOB, f"output={ADDRESS}")
    (bucket / "predictions.jsonl").unlink()
    with pytest.raises(OutputError, match="no such object"):
        run(*JOB, f"output={ADDRESS}")
    (bucket / ".d2run/checkpoint.json").write_text("{}")
    with pytest.raises(OutputError, match=r"checkpoint\.json is damaged"):
        run(*JOB, f"output={ADDRESS}")
    (bucket / ".d2run/checkpoint.json").write_text('{"schema": 7}')
    with pytest.raises(OutputError, match="another version of d2run"):
        run(*JOB, f"output={ADDRESS}")


def test_a_copy_that_was_deleted_is_made_again(bucket: Path) -> None:
    run(*JOB, f"output={ADDRESS}")
    before = kept(bucket)
    shutil.rmtree(bucket)
    assert run(*JOB, f"output={ADDRESS}").counts["earlier"] == 6
    assert kept(bucket) == before


def test_a_sink_that_gives_no_notice(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are written without ``OutputFolder`` are uploaded at the end."""
    monkeypatch.setattr(OutputFolder, "_observer", lambda self: None)
    for value in (0, 1):
        write_images(Path("in"), "0.png", value=value)
        run(*JOB, "sink=[coco,overlay]", f"output={ADDRESS}")
        run(*JOB, "sink=[coco,overlay]", "output=out")
        assert kept(bucket) == kept(Path("out"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runner=plan"], "only runner=batch and runner=ray write to an object store"),
        (["runner=watch"], "only runner=batch and runner=ray"),
        (["runner=repair"], "only runner=batch and runner=ray"),
        (["runner=merge"], "only runner=batch and runner=ray"),
        (["runner=report"], "only runner=batch and runner=ray"),
        (["runner=verify"], "only runner=batch and runner=ray"),
        (["runner=evaluate"], "only runner=batch and runner=ray"),
        (["sink=[yolo]"], "sink.yolo.images=link: an object store has no links"),
        (["sink=[fiftyone]"], "sink.fiftyone.images: an object store has no links"),
        (["sink=[webhook]", "sink.webhook.url=http://127.0.0.1:9/"], "sink.webhook: results that"),
        (["output=https://me:hush@host/x"], "'https://\\*\\*\\*@host/x' is not an address in an"),
        (["output=file:///tmp/x"], "set output to its path"),
        (["output=simplecache::shelf://bucket/x"], "is not an address in an"),
        (["output=nosuch://bucket/x"], "nosuch:// is not supported"),
        (["output=shelf://"], "is not an address in an object store"),
        (["input=shelf://bucket", "output=shelf://bucket/night"], "results would become inputs"),
        (["input=shelf://bucket/night/overlay", "sink=[overlay]"], "results would become"),
        (["runner.checkpoint_s=-1"], "checkpoint_s"),
    ],
)
def test_refused(bucket: Path, arguments: list[str], message: str) -> None:
    bucket.joinpath("overlay").mkdir(parents=True)
    write_images(bucket / "overlay", "a.png")
    with pytest.raises(ConfigError, match=message):
        job_of("device=cpu", "input=in", f"output={ADDRESS}", *arguments)


def test_finished_runs_are_read_from_directories() -> None:
    with pytest.raises(ConfigError, match="copy it here first"):
        job_of("device=cpu", "source=recorded", "source.run=shelf://bucket/night", "output=out")


def test_secrets_are_written_nowhere(here: Path) -> None:
    address = "shelf://bucket/night?token=hush1"
    run(*JOB, f"output={address}")
    assert "hush" not in str(local_directory(address))
    assert local_directory(address) == local_directory(address.replace("hush1", "hush2"))
    for path in here.rglob("*"):
        assert not path.is_file() or b"hush" not in path.read_bytes(), path


def test_names_that_are_not_utf_8(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Path("in", name).write_bytes(Path("in/1.png").read_bytes())
    run(*JOB, f"output={ADDRESS}")
    move(monkeypatch, "second")
    assert run(*JOB, f"output={ADDRESS}").counts["earlier"] == 7
    run(*JOB, "output=out")
    assert kept(local_directory(ADDRESS)) == kept(Path("out"))


def test_an_interrupted_end(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after the journal was put in order: the checkpoint has the new order, too."""
    run(*JOB, f"output={ADDRESS}")
    write_images(Path("in"), "3a.png")
    with monkeypatch.context() as patch:
        patch.setattr("runners.rundir.commit.build_aggregates", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(*JOB, f"output={ADDRESS}")
    move(monkeypatch, "second")
    assert run(*JOB, f"output={ADDRESS}").counts == {"done": 0, "failed": 1, "earlier": 7}
    run(*JOB, "output=out")
    assert kept(bucket) == kept(Path("out"))


def test_a_kill_between_the_removal_of_a_file_and_of_its_object(bucket: Path) -> None:
    run(*JOB, f"output={ADDRESS}")
    local = local_directory(ADDRESS)
    (local / "overlay/1.png.jpg").unlink()
    (local / ".remote-removed").write_text('"overlay/1.png.jpg"\n"overlay/2.png.jpg"\n"half')
    run(*JOB, f"output={ADDRESS}")
    assert not (bucket / "overlay/1.png.jpg").exists()
    assert (bucket / "overlay/2.png.jpg").exists()
    assert not (local / ".remote-removed").exists()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_shards(bucket: Path) -> None:
    for shard in ("1/2", "2/2"):
        run(*JOB, f"output={ADDRESS}", f"runner.shard={shard}")
    shutil.copytree(bucket, "copy")
    assert run("runner=merge", "output=copy").exit_status == 3
    run(*JOB, "output=out")
    same = ("predictions.jsonl", "coco.json", "inputs.jsonl")
    for name in (*same, "overlay/sub/x.jpg.jpg"):
        assert (Path("copy") / name).read_bytes() == (Path("out") / name).read_bytes()


def test_flush_waits_for_earlier_notes_only(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a commit would never end, because other assets are written meanwhile."""
    waits, release = threading.Event(), threading.Event()
    uploads = Uploads(ObjectStore(ADDRESS), here)
    first = uploads._first
    monkeypatch.setattr(uploads, "_first", lambda: waits.set() or first())

    def fault(what: str) -> None:
        if what.endswith("early"):
            waits.wait(30)
            uploads.written("late")
        elif what.endswith("late"):
            release.wait(30)

    Shelf.fault = fault
    for name in ("early", "late"):
        (here / name).write_text(name)
    uploads.written("early")
    assert uploads.flush().keys() == {"early"}
    release.set()
    assert uploads.flush().keys() == {"late"}
    uploads.close()


def test_files_of_the_checkpoint(bucket: Path) -> None:
    run(*JOB, f"output={ADDRESS}")
    content = json.loads((bucket / ".d2run/checkpoint.json").read_text())
    assert content["ledger"]["name"] == "ledger.sqlite"
    assert [each["name"] for each in content["journal"]] == ["predictions.jsonl"]
    assert set(content["outputs"]) >= {"overlay/", "crops/", "coco.json"}
    assert derived(bucket)
