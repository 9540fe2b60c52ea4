"""Secrets of the command line are in nothing that a run writes or says."""

from __future__ import annotations

import shutil
from pathlib import Path

from command_line import Run

METADATA = (
    "+model.metadata={db-password:hush1,private_keys:[hush2],conn:'AccountKey=hush3;x',"
    "header:'Bearer hush4',s3:{url:'s3://me:hush5@/hush6@host/bucket',apiToken:hush7}}"
)
JOB = ("model=mask_rcnn", "runnable=fake", "sink=[coco]", METADATA)


def check(folder: Path, *texts: str) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"run.json", "run.log", "config.yaml", "ledger.sqlite"} <= {path.name for path in files}
    for path in files:
        assert b"hush" not in path.read_bytes(), path
    assert not any("hush" in text for text in texts), texts


def test_nothing_of_them_is_written(d2run: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = (*JOB, f"input={photos}", f"output={out}")
    done = d2run(*job)
    assert done.returncode == 3
    planned = d2run(
        *job, "runner=plan", f"model.weights=https://me:hush8/@{tmp_path}/w.pkl?t=hush9"
    )
    wrong = d2run(*job, "+modle.api_token=hush10")
    check(out, done.stdout, done.stderr, planned.stdout, planned.stderr, wrong.stderr)


def test_a_sweep_writes_none_and_follows_no_link(d2run: Run, photos: Path, tmp_path: Path) -> None:
    shutil.rmtree(photos / "sub", ignore_errors=True)
    out, other = tmp_path / "out", tmp_path / "another's"
    out.mkdir()
    other.write_text("another's")
    (out / "multirun.yaml").symlink_to(other)
    done = d2run("-m", *JOB, f"input={photos}", f"output={out}", "seed=1,2")
    assert done.returncode == 3, done.stderr
    assert other.read_text() == "another's"
    assert "db-password: '***'" in (out / "multirun.yaml").read_text()
    check(out, done.stdout, done.stderr)


def test_a_shown_configuration_has_none(d2run: Run) -> None:
    service = ("runner=serve", "runnable=fake", "model=mask_rcnn", "output=out")
    plain = d2run(*service, "runner.token=hush1", "--cfg", "job")
    resolved = d2run(*service, "runner.token=hush2", "--cfg", "job", "--resolve")
    one = d2run(*service, "runner.token=hush3", "--cfg", "job", "--package", "runner")
    for done in (plain, resolved, one):
        assert done.returncode == 0, done.stderr
        assert "token: ***" in done.stdout
        assert "hush" not in done.stdout
