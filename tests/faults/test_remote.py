"""A remote input: the results of its directory, also if the run is killed and resumed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from tempfile import gettempdir

import pytest
from dying import ended, forked
from forking import warm
from scenarios import make_inputs, outputs, run_scenario, tell


def scenario_remote(folder: Path, n: int, kills: int) -> None:
    """Each run has the objects in its own memory, with new times."""
    plain = make_inputs(folder / "in", n)
    files = {path: path.read_bytes() for path in (folder / "in").rglob("*.png")}

    def fill() -> None:
        import fsspec

        system = fsspec.filesystem("memory")
        for path, data in files.items():
            system.pipe(f"/bucket/{path.relative_to(folder / 'in')}", data)

    command = [*plain[:2], "input=memory://bucket", "quiet=true", "source.cache_mb=1"]
    started_s = time.monotonic()
    assert ended(forked([*plain, f"output={folder}/plain"]), 1800) == 3
    takes_s = time.monotonic() - started_s
    whole = outputs(folder / "plain")
    rng, died = random.Random(1), 0
    while died < kills:
        child = forked([*command, f"output={folder}/out"], fill)
        time.sleep(rng.uniform(0, takes_s))
        os.kill(child, signal.SIGKILL)
        died += ended(child) == -signal.SIGKILL
        if (folder / "out" / "coco.json").exists():
            shutil.rmtree(folder / "out")
    assert ended(forked([*command, f"output={folder}/out"], fill), 1800) == 3
    assert outputs(folder / "out") == whole
    # those of killed runs are gone; a fork leaves its own, because it ends without cleaning up
    assert len(list(Path(gettempdir()).glob("d2run-scratch-*"))) <= 1
    tell(f"{len(files)} objects, {died} deaths")


@pytest.mark.timeout(300)
def test_a_killed_run_over_objects(tmp_path: Path) -> None:
    assert "61 objects, 3 deaths" in run_scenario(__file__, tmp_path, "remote", 60, 3)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_ten_thousand_objects(tmp_path: Path) -> None:
    assert "10001 objects, 10 deaths" in run_scenario(__file__, tmp_path, "remote", 10_000, 10)


if __name__ == "__main__":
    warm("pipeline.sources.remote", "fsspec")
    scratch = Path(sys.argv[2]) / "tmp"
    scratch.mkdir()
    os.environ["TMPDIR"] = str(scratch)
    scenario_remote(Path(sys.argv[2]), *json.loads(sys.argv[3]))
