"""The disk fails at every sink, every list and the ledger: the run ends, and the next one mends it.

A run ends with status 1 and one sentence. Nothing half-written has a final name, what an fsync
failed to bring to the disk is never committed, and the same command, once the fault is gone, ends
with what an uninterrupted run leaves, byte for byte.
"""

from __future__ import annotations

import errno
import json
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import command, environment
from dying import forked
from failing_disk import arm, failed, mark
from file_layer import temporary
from forking import Forks, warm
from scenarios import make_inputs, outputs, packed, run_scenario, tell, told, with_maps

FULL, IO, READ_ONLY = errno.ENOSPC, errno.EIO, errno.EROFS
FILES, QUOTA = errno.EMFILE, errno.EDQUOT
LEDGER_FAULTS = [
    (words, statement, at)
    for statement, at in (
        *(("COMMIT", at) for at in (1, 2, 4, 7)),
        *(("INSERT", at) for at in (1, 4, 8)),
        ("BEGIN", 2),
    )
    for words in (
        "database or disk is full", "disk I/O error", "attempt to write a readonly database",
    )
]  # fmt: skip

# what fails: pattern of a path, operations and how, the first time of many
PICTURES = {
    "overlay": r"overlay/.*\.part",
    "map": r"sem_seg/.*\.part",
}
FINAL = {"overlay": r"overlay/.*\.jpg", "map": r"sem_seg/.*\.png"}
FILE_FAULTS = [
    *((path, *fault) for path in PICTURES.values() for fault in (
        ("write", FULL), ("write", QUOTA), ("fsync", IO), ("open", FILES), ("open", READ_ONLY),
    )),
    *((path, "rename", error) for path in FINAL.values() for error in (FULL, IO)),
    *((r"(overlay|sem_seg)/\d", *fault) for fault in (("fsync", IO), ("mkdir", FULL))),
    *((r"predictions\.jsonl", *fault) for fault in (
        ("write", FULL), ("write", QUOTA), ("write", IO), ("fsync", IO), ("fsync", FULL),
        ("open", READ_ONLY), ("open", FILES), ("truncate", IO),
    )),
    *((rf"{name}\.jsonl", *fault) for name in ("inputs", "failures") for fault in (
        ("write", FULL), ("open", FILES), ("write", IO),
    )),
    *((temporary(name), *fault) for name in (
        "inputs.jsonl", "failures.jsonl", "coco.json", "coco_results.json", "run.json",
    ) for fault in (("open", FILES), ("write", FULL), ("write", IO), ("fsync", IO))),
    *((re.escape(name), "rename", READ_ONLY) for name in (
        "inputs.jsonl", "coco.json", "run.json",
    )),
    (r"$", "fsync", IO),  # the output directory itself
]  # fmt: skip
HARMLESS = [
    (pattern, operation, error)
    for pattern in (temporary("status.json"), "status.json", r"\.in_flight")
    for operation, error in (("write", FULL), ("fsync", IO), ("rename", READ_ONLY), ("open", FILES))
    if (pattern, operation) != (r"\.in_flight", "open")
]


def arm_ledger(out: Path, words: str, statement: str, at: int) -> None:
    """The ledger's ``at``-th statement of a kind fails, and all later ones."""
    from runners.rundir.ledger import ledger

    class Failing:
        def __init__(self, db: sqlite3.Connection) -> None:
            self.db, self.seen = db, 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.db, name)

        def maybe(self, text: str) -> None:
            self.seen += text.startswith(statement)
            if self.seen >= at and text.startswith(statement):
                mark(out)
                raise sqlite3.OperationalError(words)

        def execute(self, text: str, *args: Any) -> Any:
            self.maybe(text)
            return self.db.execute(text, *args)

        def executemany(self, text: str, *args: Any) -> Any:
            self.maybe(text)
            return self.db.executemany(text, *args)

    class Module:
        Error = sqlite3.Error

        @staticmethod
        def connect(*args: Any, **options: Any) -> Any:
            return Failing(sqlite3.connect(*args, **options))

    ledger.sqlite3 = Module  # type: ignore[assignment]


def watch_commits(out: Path) -> None:
    """What follows a failure must not be a commit: that of an fsync least of all."""
    from runners.rundir.ledger.ledger import Ledger

    original = Ledger.commit

    def commit(self: Ledger, *args: Any) -> None:
        assert not failed(out), "committed after a failure"
        original(self, *args)

    Ledger.commit = commit  # type: ignore[method-assign]


def check_nothing_half_done(out: Path, whole: dict[str, bytes]) -> None:
    for path in [*out.glob("overlay/**/*.jpg"), *out.glob("sem_seg/**/*.png")]:
        assert path.read_bytes() == whole[str(path.relative_to(out))], path
    for name in ("coco.json", "coco_results.json"):
        assert not (out / name).exists() or (out / name).read_bytes() == whole[name]
    if (out / "predictions.jsonl").exists():
        text = (out / "predictions.jsonl").read_bytes()
        assert whole["predictions.jsonl"].startswith(text)
        assert text.endswith(b"\n") or not text
    if (out / "run.json").exists():
        json.loads((out / "run.json").read_bytes())
    left = [path.name for path in out.rglob("*.part")]
    assert not left, left


def all_outputs(out: Path) -> dict[str, bytes]:
    maps = {str(path.relative_to(out)): path.read_bytes() for path in out.glob("sem_seg/**/*.png")}
    return outputs(out) | maps


def scenario_errno(folder: Path, n: int, times: list[int], every: int, kind: str = "") -> None:
    """Inject each ``every``-th fault, at these times, and continue."""
    arguments = packed(make_inputs(folder / "in", n), folder / "in", kind)

    def fork(out: Path, prepare: Callable[[], None] = lambda: None) -> tuple[int, list[str]]:
        def both() -> None:
            from runners.rundir import commit as session

            session.GROUP = 8
            with_maps()
            if not out.name.startswith("harmless"):
                watch_commits(out)
            prepare()

        return told(lambda: forked([*arguments, f"output={out}"], both), folder / "stderr")

    assert fork(folder / "whole")[0] == 3
    whole = all_outputs(folder / "whole")
    assert sum(name.startswith("sem_seg") for name in whole) == n
    met = 0

    def ends(name: str, out: Path, prepare: Callable[[], None]) -> None:
        nonlocal met
        status, lines = fork(out, prepare)
        if not failed(out):
            assert status == 3, (name, status, lines)
        else:
            met += 1
            said = [line for line in lines if "broken.png" not in line]
            assert status == 1, (name, status, lines)
            assert len(said) == 1, (name, lines)
            assert said[0].startswith("error: cannot write the "), (name, said)
            check_nothing_half_done(out, whole)
            out.with_suffix(".failed").unlink()
            assert fork(out)[0] == 3, name
        assert all_outputs(out) == whole, name

    for number, (pattern, operation, error) in enumerate(FILE_FAULTS[::every]):
        for at in times:
            for once in (True, False) if operation == "fsync" else (False,):
                out = folder / f"{number} {at} {once}"
                name = f"{operation} of {pattern}: {errno.errorcode[error]}, time {at}, {once=}"
                ends(
                    name,
                    out,
                    lambda: arm(out, pattern, operation, error, at, once),  # noqa: B023
                )
                shutil.rmtree(out)
    for words, statement, at in LEDGER_FAULTS[::every]:
        out = folder / f"{words} {statement} {at}"
        ends(out.name, out, lambda: arm_ledger(out, words, statement, at))  # noqa: B023
        shutil.rmtree(out)
    met_all = met
    for number, (pattern, operation, error) in enumerate(HARMLESS[::every]):
        out = folder / f"harmless {number}"
        status, lines = fork(out, lambda: arm(out, pattern, operation, error, 1, False))  # noqa: B023
        assert status == 3, (pattern, operation, lines)
        assert all_outputs(out) == whole, (pattern, operation)
    tell(f"{met_all} faults met")


def faults_met(tmp_path: Path, *arguments: object) -> int:
    return int(run_scenario(__file__, tmp_path, "errno", *arguments).split()[0])


@pytest.mark.timeout(300)
def test_some_faults(tmp_path: Path) -> None:
    assert faults_met(tmp_path, 16, [1], 28) >= 3


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["", "zip", "tar.gz"])
def test_every_fault_at_many_times(tmp_path: Path, kind: str) -> None:
    assert faults_met(tmp_path, 40, [1, 2, 3, 5, 8, 20], 1, kind) >= 250


def run(tmp_path: Path, arguments: list[str], out: Path, **options: Any) -> tuple[int, list[str]]:
    done = subprocess.run(
        command(*arguments, f"output={out}"),
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=100,
        **options,
    )
    return done.returncode, said(done.stderr)


def said(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if "broken.png" not in line]


def test_a_small_disk(tmp_path: Path, forks: Forks) -> None:
    def run(tmp_path: Path, arguments: list[str], out: Path) -> tuple[int, list[str]]:
        script = command(*arguments, f"output={out}")[1:]
        done = forks.run(script, cwd=tmp_path, env=environment(tmp_path), timeout=100)
        return done.returncode, said(done.stderr)

    arguments, disk = make_inputs(tmp_path / "in", 40), tmp_path / "disk"
    assert run(tmp_path, arguments, tmp_path / "whole")[0] == 3
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs rights that this user does not have")
    try:
        status, told = run(tmp_path, arguments, disk / "out")
        assert (status, len(told)) == (1, 1), told
        assert "No space left on device" in told[0] or "disk is full" in told[0]
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert run(tmp_path, arguments, disk / "out")[0] == 3
        assert outputs(disk / "out") == outputs(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_few_descriptors_are_enough(tmp_path: Path, isolation: str) -> None:
    arguments = [*make_inputs(tmp_path / "in", 40), f"decode.isolation={isolation}"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    status, told = run(tmp_path, arguments, tmp_path / "out", preexec_fn=limit)
    assert (status, len(told)) == (3, 1), told


if __name__ == "__main__":
    warm()
    scenario_errno(Path(sys.argv[2]), *json.loads(sys.argv[3]))
