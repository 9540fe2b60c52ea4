"""A run over a million inputs that are done: how soon it begins a new one, and in what memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import ROOT, environment, write_picture

ARGUMENTS = ("model=mask_rcnn", "runnable=fake", "quiet=true")
_MTIME_NS = 1_700_000_000_000_000_000
_IN_A_FOLDER = 1000


def make_done(folder: Path, n: int) -> None:
    """An input of ``n`` empty files, and an output that has done them all."""
    from runners.rundir.journal import Position
    from runners.rundir.ledger.ledger import Entry, Ledger

    (folder / "in").mkdir(parents=True)
    subprocess.run([*timed(folder, "end"), f"output={folder}/out"], check=True, env=env(folder))
    lines, size = [], 0
    with Ledger(folder / "out" / "ledger.sqlite") as ledger:
        for first in range(0, n, _IN_A_FOLDER):
            inner = folder / "in" / f"{first // _IN_A_FOLDER:04d}"
            inner.mkdir()
            made = []
            for i in range(first, min(first + _IN_A_FOLDER, n)):
                name = f"{inner.name}/{i:07d}.jpg"
                descriptor = os.open(folder / "in" / name, os.O_CREAT | os.O_WRONLY)
                os.utime(descriptor, ns=(_MTIME_NS, _MTIME_NS))
                os.close(descriptor)
                lines.append(f'{{"asset": "{name}", "image_id": {i + 1}, "instances": []}}\n')
                length = len(lines[-1])
                made.append(
                    Entry(name, i, "done", 0, _MTIME_NS, f"{i:064x}", size, length, frames=1)
                )
                size += length
            ledger.put(made)
        ledger.commit(Position(size, n + 1))
    (folder / "out" / "predictions.jsonl").write_text("".join(lines))


def timed(folder: Path, until: str) -> list[str]:
    return [sys.executable, __file__, until, *ARGUMENTS, f"input={folder}/in"]


def env(folder: Path) -> dict[str, str]:
    support = ROOT / "tests" / "support"
    return {**environment(folder), "PYTHONPATH": os.pathsep.join([str(ROOT), str(support)])}


def measured(folder: Path, until: str) -> tuple[float, float]:
    """Seconds and peak MB of a run in that output, until its end or its first new input."""
    began = time.monotonic()
    done = subprocess.run(
        [*timed(folder, until), f"output={folder}/out"],
        env=env(folder),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return time.monotonic() - began, float(done.stdout.split()[-1])


def run_until(until: str, arguments: list[str]) -> int:
    """Run a command; ``first``: only until the pipeline takes an input."""
    sys.path[:0] = [str(ROOT)]
    import run

    if until == "first":
        from pipeline.engine import Pipeline

        Pipeline.run = taken  # type: ignore[method-assign]
    sys.argv = ["run.py", *arguments]
    status = run.main()
    sys.stdout.write(f"{peak_mb()}\n")
    return status


def taken(self: object, assets: object) -> object:
    asset = next(iter(assets))  # type: ignore[call-overload]
    sys.stdout.write(f"{asset.id} {peak_mb()}\n")
    sys.stdout.flush()
    os._exit(0)


def peak_mb() -> float:
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index("VmHWM:") + 1]) / 1024


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_million_that_are_done(tmp_path: Path) -> None:
    make_done(tmp_path, 1_000_000)
    out = tmp_path / "out"
    measured(tmp_path, "end")  # brings the lists to their end
    lists = {name: (out / name).stat() for name in ("inputs.jsonl", "coco.json")}
    nothing_s, nothing_mb = measured(tmp_path, "end")
    after = {name: (out / name).stat() for name in lists}
    assert {name: (s.st_ino, s.st_mtime_ns) for name, s in after.items()} == {
        name: (s.st_ino, s.st_mtime_ns) for name, s in lists.items()
    }, "a run that did nothing wrote the lists anew"
    write_picture(tmp_path / "in" / "zz.png", np.zeros((24, 32, 3), np.uint8))
    new_s, new_mb = measured(tmp_path, "first")
    load = os.getloadavg()[0]
    sys.stdout.write(
        f"nothing new: {nothing_s:.1f} s, {nothing_mb:.0f} MB; "
        f"one new: {new_s:.1f} s, {new_mb:.0f} MB; load {load:.1f}\n"
    )
    assert max(nothing_mb, new_mb) < 500


if __name__ == "__main__":
    sys.exit(run_until(sys.argv[1], sys.argv[2:]))
