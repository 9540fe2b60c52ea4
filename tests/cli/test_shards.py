"""Shards and their merge, as commands."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import ROOT, environment, write_picture
from forking import Forks

from runners.rundir.lock import locked

JOB = ("model=mask_rcnn", "runnable=fake", "sink=[coco]", "input=in", "output=out", "quiet=true")
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(tmp_path: Path, forks: Forks) -> Command:
    for i in range(6):
        write_picture(tmp_path / "in" / f"{i}.png", np.full((16, 20 + i, 3), i, np.uint8))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        script = [str(ROOT / "run.py"), *arguments]
        return forks.run(script, cwd=tmp_path, env=environment(tmp_path), timeout=100)

    return run


def test_shards_and_merge(command: Command, tmp_path: Path) -> None:
    with locked(tmp_path / "out"):  # which only the merge needs
        for k in (1, 2):
            done = command(*JOB, f"runner.shard={k}/2")
            assert (done.returncode, done.stderr) == (0, "")
    refused = command("runner=merge", "output=out", "sink=[csv]")
    line = "error: runner=merge takes the settings from the shards; remove sink=[csv]\n"
    assert (refused.returncode, refused.stderr) == (2, line)
    merged = command("runner=merge", "output=out")
    assert (merged.returncode, merged.stderr) == (0, "merging 6 inputs of 2 shards\n")
    assert merged.stdout == f"merged 2 shards: 6 done\nresults in {tmp_path / 'out'}\n"
    overrides = (tmp_path / "out" / ".hydra" / "overrides.yaml").read_text()
    assert "- input=" in overrides  # for runner=rerun
    assert "shard" not in overrides
    again = command(*JOB, "quiet=false")
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.startswith("nothing to do: 6 done earlier\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("runner.shard=1/2",), "runner.shard: the shards share an output directory; add output="),
        (("-m", "runner.shard=1/2,2/2", "output=x"), "runner.shard: the shards share an output d"),
        (("runner.shard=9/8", "output=x"), "runner.shard: 9/8 is none of the shards 1/8 to 8/8"),
        (("runner=merge", "output=x"), "there is nothing to merge in "),
    ],
)
def test_refused(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    inputs = () if "runner=merge" in arguments else JOB[:4]
    done = command(*inputs, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(tmp_path.rglob("run.json"))
    assert "-m" in arguments or not (tmp_path / "x").exists()
