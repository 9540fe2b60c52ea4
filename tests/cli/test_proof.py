"""A signed run on the command line: verified, repeated with another option, changed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from command_line import Run
from signing_keys import write_keys


def test_sign_verify_rerun(d2run: Run, photos: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path)
    fake = ("runnable=fake", "model=shapes", f"input={photos}")
    done = d2run(*fake, f"output={tmp_path}/run", f"runner.sign={private}")
    assert done.returncode == 3, done.stderr
    check = ["sha256sum", "-c", "--status", "manifest.sha256"]
    subprocess.run(check, cwd=tmp_path / "run", check=True)
    verify = ("runner=verify", f"runner.run={tmp_path}/run")
    done = d2run(*verify, f"runner.public_key={public}", f"output={tmp_path}/repeat")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("identical: ")
    assert not (tmp_path / "repeat").exists()

    done = d2run("runner=rerun", f"runner.run={tmp_path}/run", f"output={tmp_path}/again",
                 "stage.min_score.threshold=0.9")  # fmt: skip
    assert done.returncode == 3, done.stderr
    before, again = (json.loads((tmp_path / x / "run.json").read_bytes()) for x in ("run", "again"))
    assert again["config"]["runnable"] == before["config"]["runnable"]
    assert again["settings"]["stage"]["min_score"]["threshold"] == 0.9
    assert not list((tmp_path / "again").glob("*.sig"))

    record = tmp_path / "run/run.json"
    record.write_text(record.read_text().replace('"seed": 0', '"seed": 1'))
    done = d2run(*verify, f"runner.public_key={public}", f"output={tmp_path}/repeat")
    assert done.returncode == 1
    assert "run.json does not match its signature by this key" in done.stdout
    other = d2run(*verify, f"runner.public_key={private}", f"output={tmp_path}/other")
    assert other.returncode == 2
    assert "runner.public_key" in other.stderr
    assert "not an unencrypted public Ed25519 key" in other.stderr
