"""The Slurm script that users copy, with a cluster that runs every task at once."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import ROOT
from forking import Forks

SCRIPT = ROOT / "examples" / "unattended" / "slurm.sh"
# notes its arguments, and prints a job number as --parsable does
SBATCH = '#!/bin/bash\nprintf "%s\\n" "$@" >>calls; echo -- >>calls; echo "42;cluster"\n'


def write_program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def script(here: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(here), os.environ["PATH"]])
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env={"PATH": path, "HOME": str(here), "OUTPUT": "out", "INPUT": "in"} | variables,
        cwd=here,
        capture_output=True,
        text=True,
    )


def test_it_is_bash_without_mistakes() -> None:
    assert os.access(SCRIPT, os.X_OK)
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    shellcheck = shutil.which("shellcheck")
    if shellcheck is not None:
        subprocess.run([shellcheck, str(SCRIPT)], check=True)


def test_what_is_submitted(tmp_path: Path) -> None:
    write_program(tmp_path / "sbatch", SBATCH)
    done = script(tmp_path, SHARDS="3")
    assert (done.returncode, done.stderr) == (0, "")
    array, merge = (tmp_path / "calls").read_text().split("--\n")[:2]
    assert {"--array=1-3", "--requeue", "--parsable", str(SCRIPT)} <= {*array.splitlines()}
    assert "--dependency=afterany:42" in merge.splitlines()
    assert merge.splitlines()[-2:] == [str(SCRIPT), "merge"]


@pytest.mark.parametrize("task", [["SLURM_ARRAY_TASK_ID"], []])
def test_each_job_runs_what_it_should(tmp_path: Path, task: list[str], forks: Forks) -> None:
    program = write_program(tmp_path / "d2run", '#!/bin/bash\nprintf "%s\\n" "$@"\nexit 3\n')
    variables = {"PROGRAM": str(program), "SHARDS": "3"} | dict.fromkeys(task, "2")
    done = script(tmp_path, *([] if task else ["merge"]), **variables)
    assert done.returncode == 3
    arguments = done.stdout.splitlines()
    assert ("runner.shard=2/3" if task else "runner=merge") in arguments
    if task:  # the options are those of a batch
        composed = forks.run(
            [str(ROOT / "run.py"), *arguments, "--cfg", "job"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            timeout=60,
        )
        assert (composed.returncode, composed.stderr) == (0, "")
        assert "shard: 2/3" in composed.stdout
