"""Resuming a run: finished inputs are kept, failed and changed ones are processed again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, command, environment, write_picture

from runners.rundir.ledger.ledger import Ledger

FAKE = ("model=mask_rcnn", "runnable=fake", "quiet=true")
SAME = ("predictions.jsonl", "coco.json", "coco_results.json", "failures.jsonl", "inputs.jsonl")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def counts(out: Path) -> dict[str, int]:
    return json.loads((out / "run.json").read_text())["counts"]


def content(out: Path) -> dict[str, bytes]:
    pictures = {str(p.relative_to(out)): p.read_bytes() for p in out.glob("overlay/**/*.jpg")}
    return {name: (out / name).read_bytes() for name in SAME} | pictures


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def done(d2run: Run, photos: Path, out: Path) -> Path:
    """An output in which six images are done and one failed."""
    assert d2run(*FAKE, f"input={photos}", f"output={out}").returncode == 3
    return out


def test_what_is_done_is_not_done_again(d2run: Run, photos: Path, done: Path) -> None:
    before = content(done)
    again = d2run(*FAKE, f"input={photos}", f"output={done}")
    assert again.returncode == 3
    assert content(done) == before
    assert counts(done) == {"done": 0, "failed": 1, "earlier": 6}
    record = json.loads((done / "run.json").read_text())
    assert [run["counts"] for run in record["earlier"]] == [{"done": 6, "failed": 1}]


def test_new_changed_mended_and_removed(
    d2run: Run, photos: Path, done: Path, tmp_path: Path
) -> None:
    shutil.copy(photos / "b.png", photos / "broken.jpg")  # mended
    shutil.copy(photos / "b.png", photos / "a2.jpg")  # changed
    shutil.copy(photos / "b.png", photos / "a3.png")  # new, in the middle
    (photos / "sub" / "c.jpg").write_bytes(b"\xff\xd8\xff not an image")  # was done, fails
    (photos / "a10.jpg").touch()  # the same content
    plan = d2run(*FAKE, "runner=plan", f"input={photos}", f"output={done}")
    for told in ("changed since", "failed before", "new", "already done"):
        assert told in plan.stdout
    again = d2run(*FAKE, f"input={photos}", f"output={done}")
    assert again.returncode == 3
    assert counts(done) == {"done": 3, "failed": 1, "earlier": 4}
    assert d2run(*FAKE, f"input={photos}", f"output={tmp_path}/fresh").returncode == 3
    assert content(done) == content(tmp_path / "fresh")

    (photos / "sub" / "c.jpg").unlink()  # a failure whose input is removed
    (photos / "a1.jpg").unlink()  # a result whose input is removed
    again = d2run(*FAKE, f"input={photos}", f"output={done}")
    assert again.returncode == 0
    assert "1 inputs of an earlier run no longer exist" in again.stderr
    assert lines(done / "failures.jsonl") == []
    assert lines(done / "predictions.jsonl")[0]["asset"] == "a1.jpg"


def test_other_settings_are_refused(d2run: Run, photos: Path, done: Path) -> None:
    def everything() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in done.rglob("*") if p.is_file()}

    before = everything()
    for option in ("stage.min_score.threshold=0.7", "sink=[coco]", "seed=3", "exif=false"):
        refused = d2run(*FAKE, f"input={photos}", f"output={done}", option)
        assert refused.returncode == 2
        assert "runner.on_change=restart" in refused.stderr
        assert everything() == before
    assert "source.exif was True, is False" in refused.stderr
    anew = d2run(*FAKE, f"input={photos}", f"output={done}", option, "runner.on_change=restart")
    assert anew.returncode == 3
    assert counts(done) == {"done": 6, "failed": 1}


def test_only_what_failed(d2run: Run, photos: Path, done: Path) -> None:
    shutil.copy(photos / "b.png", photos / "broken.jpg")
    shutil.copy(photos / "b.png", photos / "new.png")
    job = (*FAKE, f"input={photos}", f"output={done}")
    assert d2run(*job, "runner.retry_failed=true").returncode == 0
    assert counts(done) == {"done": 1, "failed": 0, "earlier": 6, "later": 1}
    assert d2run(*job).returncode == 0
    assert counts(done) == {"done": 1, "failed": 0, "earlier": 7}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda out: (out / "ledger.sqlite").unlink(), id="gone"),
        pytest.param(
            lambda out: os.truncate(out / "ledger.sqlite", 0), id="empty", marks=pytest.mark.nightly
        ),
        pytest.param(lambda out: os.truncate(out / "ledger.sqlite", 5000), id="cut off"),
        pytest.param(
            lambda out: (out / "ledger.sqlite").write_text("x" * 9000),
            id="not one",
            marks=pytest.mark.nightly,
        ),
        pytest.param(lambda out: os.truncate(out / "predictions.jsonl", 500), id="predictions"),
    ],
)
def test_a_damaged_ledger_is_told_and_repaired(
    d2run: Run, photos: Path, done: Path, damage: object
) -> None:
    before = content(done)
    damage(done)  # type: ignore[operator]
    job = (*FAKE, f"input={photos}", f"output={done}")
    refused = d2run(*job)
    assert refused.returncode == 1
    assert "runner=repair" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    repaired = d2run(*job, "runner=repair")
    assert repaired.returncode == 0, repaired.stderr
    assert "intact results kept" in repaired.stdout
    assert d2run(*job).returncode == 3
    assert content(done) == before
    assert counts(done)["done"] <= 6


def test_a_flipped_byte_is_seen_before_anything_is_done(
    d2run: Run, photos: Path, done: Path
) -> None:
    path = done / "ledger.sqlite"
    whole = path.read_bytes()
    # the last result's, which no run that has nothing to do would look at
    at = whole.index(b"sub/c.jpg", whole.index(b"CREATE INDEX")) + len("sub/c.jpgdone") + 30
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    before = content(done)
    refused = d2run(*FAKE, f"input={photos}", f"output={done}")
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert "runner=repair" in refused.stderr
    assert content(done) == before
    assert d2run(*FAKE, "runner=repair", f"input={photos}", f"output={done}").returncode == 0
    assert d2run(*FAKE, f"input={photos}", f"output={done}").returncode == 3
    assert content(done) == before


def test_nothing_to_repair(d2run: Run, photos: Path, tmp_path: Path) -> None:
    job = (*FAKE, "runner=repair", f"input={photos}")
    told = d2run(*job, f"output={tmp_path}/gone")
    assert (told.returncode, "no run to repair" in told.stderr) == (1, True)
    assert not (tmp_path / "gone").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    told = d2run(*job, f"output={tmp_path}/other")
    assert (told.returncode, "cannot be kept" in told.stderr) == (1, True)


def test_twenty_starts_at_once(photos: Path, tmp_path: Path, out: Path) -> None:
    for i in range(400):
        write_picture(photos / f"{i}.png", np.full((200, 300, 3), i % 251, np.uint8))
    job = command(*FAKE, f"input={photos}", f"output={out}")
    starts = [
        subprocess.Popen(job, env=environment(tmp_path), stderr=subprocess.PIPE, text=True)
        for _ in range(20)
    ]
    told = [(start.communicate(timeout=100)[1], start.returncode) for start in starts]
    assert sorted(status for _, status in told) == [3] + [11] * 19
    assert all(text.startswith("error: another run holds") for text, s in told if s == 11)
    assert len(lines(out / "predictions.jsonl")) == 406


def test_a_second_start_may_go_without_a_word(d2run: Run, photos: Path, out: Path) -> None:
    import fcntl

    out.mkdir()
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = d2run(*FAKE, f"input={photos}", f"output={out}", "runner.on_lock=skip")
        assert (told.returncode, told.stdout, told.stderr) == (0, "", "")
        # a quoted name is Hydra's to read, so this start looks at the lock later
        told = d2run(*FAKE, f"input={photos}", f"output='{out}'", "runner.on_lock=skip")
        assert (told.returncode, told.stderr) == (0, "")
    assert [path.name for path in out.iterdir()] == [".lock"]


def test_a_wrong_start_leaves_no_directory(d2run: Run, photos: Path, tmp_path: Path) -> None:
    wrong = d2run(*FAKE, f"input={photos}", f"output={tmp_path}/a/b/c", "batch_size=0")
    assert wrong.returncode == 2
    assert not (tmp_path / "a").exists()
    planned = d2run(*FAKE, "runner=plan", f"input={photos}", f"output={tmp_path}/a/b/c")
    assert planned.returncode == 0
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("share", "status"), [("20%", 3), ("0.2", 3), ("10%", 4), ("0%", 4), ("x", 2), ("200%", 2)]
)
def test_a_share_of_failures(d2run: Run, photos: Path, out: Path, share: str, status: int) -> None:
    job = (*FAKE, f"input={photos}", f"output={out}", f"runner.max_failures={share}")
    assert d2run(*job).returncode == status


@pytest.mark.parametrize("name", ["overlay", "overlay/sub", "predictions.jsonl", "run.log"])
def test_a_link_in_the_output_is_not_followed(
    d2run: Run, photos: Path, out: Path, tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("the user's own")
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(outside / ("folder" if "overlay" in name else "file"))
    told = d2run(*FAKE, f"input={photos}", f"output={out}")
    assert told.returncode in (1, 2)
    assert "symbolic link" in told.stderr or "which no run of d2run wrote" in told.stderr
    assert list((outside / "folder").iterdir()) == []
    assert (outside / "file").read_text() == "the user's own"


def test_decoding_apart_gives_the_same(d2run: Run, photos: Path, done: Path, out: Path) -> None:
    job = (*FAKE, f"input={photos}", "decode.isolation=process")
    apart = d2run(*job, f"output={out}2")
    assert apart.returncode == 3
    assert content(Path(f"{out}2")) == content(done)


def test_a_run_that_died_when_it_made_its_ledger(d2run: Run, photos: Path, out: Path) -> None:
    out.mkdir()
    (out / "ledger.sqlite").touch()
    (out / "ledger.sqlite-journal").write_bytes(b"\xd9\xd5\x05\xf9")
    assert d2run(*FAKE, f"input={photos}", f"output={out}").returncode == 3
    assert counts(out) == {"done": 6, "failed": 1}


def test_one_guilty_frame_fails_alone(d2run: Run, tmp_path: Path, out: Path) -> None:
    for i in range(11):  # a batch of eight, and one of three
        write_picture(tmp_path / f"in/{i}.png", np.full((24, 32, 3), i * 20, np.uint8))
    job = (*FAKE, f"input={tmp_path}/in", f"output={out}", "batch_size=8")
    guilty = "+runnable.fail_on=[5.png]"
    told = d2run(*job, guilty)
    assert told.returncode == 3
    assert told.stderr.splitlines() == [
        "error: 5.png: inference: RuntimeError: '5.png' fails because it is in fail_on",
        f"error: 1 of 11 inputs failed; see {out}/failures.jsonl",
    ]
    # once: what its batch was tried before is not its own, and hangs on who its neighbours are
    assert [(line["asset"], line["attempts"]) for line in lines(out / "failures.jsonl")] == [
        ("5.png", 1)
    ]
    found = lines(out / "predictions.jsonl")
    assert [line["asset"] for line in found] == [f"{i}.png" for i in range(11) if i != 5]
    before = content(out)
    assert d2run(*job, guilty).returncode == 3  # now it is alone in its batch
    assert content(out) == before
    other = (*FAKE, f"input={tmp_path}/in", f"output={out}2", "batch_size=1", guilty)
    assert d2run(*other).returncode == 3
    assert content(Path(f"{out}2")) == before


def test_another_order_of_what_is_done(d2run: Run, photos: Path, tmp_path: Path) -> None:
    ways = [str(photos / name) for name in ("b.png", "a1.jpg", "a2.jpg")]
    listed = tmp_path / "list.txt"
    for order, output in ((ways, "one"), (ways[::-1], "one"), (ways[::-1], "fresh")):
        listed.write_text("\n".join(order))
        assert d2run(*FAKE, f"input={listed}", f"output={tmp_path}/{output}").returncode == 0
    assert content(tmp_path / "one") == content(tmp_path / "fresh")


def test_what_was_removed_is_derived_again(d2run: Run, photos: Path, out: Path) -> None:
    (photos / "broken.jpg").unlink()
    job = (*FAKE, f"input={photos}", f"output={out}")
    assert d2run(*job).returncode == 0
    before = content(out)
    for name in ("coco.json", "failures.jsonl", "run.json"):
        (out / name).unlink()
    assert d2run(*job).returncode == 0
    assert content(out) == before
    assert counts(out) == {"done": 0, "failed": 0, "earlier": 6}


def test_predictions_that_an_editor_changed(d2run: Run, photos: Path, done: Path) -> None:
    before = content(done)
    changed = (done / "predictions.jsonl").read_bytes().replace(b"\n", b"\r\n")
    (done / "predictions.jsonl").write_bytes(changed)
    job = (*FAKE, f"input={photos}", f"output={done}")
    told = d2run(*job)
    assert (told.returncode, "runner=repair" in told.stderr) == (1, True)
    assert (done / "predictions.jsonl").read_bytes() == changed
    assert (done / "coco.json").read_bytes() == before["coco.json"]


def test_a_ledger_in_use_is_left_alone(d2run: Run, photos: Path, done: Path) -> None:
    job = (*FAKE, f"input={photos}", f"output={done}")
    with Ledger(done / "ledger.sqlite"):  # of a run whose .lock was removed
        assert d2run(*job, "runner=repair").returncode == 11
        assert (done / "ledger.sqlite").exists()
    assert d2run(*job).returncode == 3
    with Ledger(done / "ledger.sqlite") as ledger:
        ledger.set_fact("schema", 99)
        ledger.commit()
    told = d2run(*job, "runner=repair")
    assert (told.returncode, "another version" in told.stderr) == (1, True)


def test_secrets_are_written_nowhere(d2run: Run, photos: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class Stage:\n"
        "    def __init__(self, token, url): self.url = url\n"
        "    def __call__(self, result): raise RuntimeError(f'{self.url} \\x1b[2J refused')\n"
    )

    def job(secret: str) -> tuple[str, ...]:
        stage = "+stage.mine={_target_: mine.Stage, token: T, url: 'https://u:S@h/?sig=S'}"
        stage = stage.replace("T,", f"{secret},").replace("S", secret)
        stage = stage.replace(f"mine.{secret}tage", "mine.Stage")
        trust = "trusted_packages=[pipeline,runners,mine]"
        return (*FAKE, stage, trust, f"input={photos}/b.png", f"output={out}")

    env = environment(tmp_path) | {"PYTHONPATH": str(tmp_path)}
    assert d2run(*job("hush1"), env=env).returncode == 3
    assert d2run(*job("hush2"), "runner=repair", env=env).returncode == 0
    told = d2run(*job("hush2"), env=env)  # a token is not a setting
    assert told.returncode == 3, told.stderr
    files = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {"run.log", "ledger.sqlite", "run.json", "config.yaml", "failures.jsonl"} <= set(files)
    assert [name for name, data in files.items() if b"hush" in data] == []
    assert [name for name, data in files.items() if b"\x1b" in data and "ledger" not in name] == []


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("runner.retry_failed=maybe", "runner.retry_failed: expected true or false"),
        ("+model.weihgts=x.pth", "no option 'model.weihgts'; did you mean 'model.weights'?"),
        ("output=~nobody-of-this-name", None),
    ],
)
def test_options_that_mean_nothing(d2run: Run, photos: Path, option: str, told: str | None) -> None:
    done = d2run(*FAKE, f"input={photos}/b.png", option)
    assert (done.returncode, len(done.stderr.splitlines())) == ((2, 1) if told else (0, 0))
    assert (told or "") in done.stderr
