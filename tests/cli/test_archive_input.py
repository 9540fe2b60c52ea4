"""An archive as input: the results of its directory, resumed and planned like any other."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, write_picture
from packing import pack, pack_folder

FAKE = ("model=mask_rcnn", "runnable=fake", "quiet=true")
SAME = ("predictions.jsonl", "coco.json", "failures.jsonl", "inputs.jsonl")


def outputs(out: Path) -> dict[str, bytes]:
    pictures = {str(p.relative_to(out)): p.read_bytes() for p in out.glob("overlay/**/*.jpg")}
    return {name: (out / name).read_bytes() for name in SAME} | pictures


def counts(out: Path) -> dict[str, int]:
    return json.loads((out / "run.json").read_text())["counts"]


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_an_archive_gives_what_its_directory_does(
    d2run: Run, photos: Path, tmp_path: Path, kind: str
) -> None:
    archive = pack_folder(tmp_path / f"x.{kind}", photos)
    out = tmp_path / "out"
    assert d2run(*FAKE, f"input={photos}", f"output={tmp_path}/plain").returncode == 3
    assert d2run(*FAKE, f"input={archive}", f"output={out}").returncode == 3
    assert outputs(out) == outputs(tmp_path / "plain")
    done = counts(out)["done"]

    # nothing to do, and nothing but the failed member is read
    assert d2run(*FAKE, f"input={archive}", f"output={out}").returncode == 3
    assert counts(out) == {"done": 0, "failed": 1, "earlier": done}

    # another version of the archive: members are compared by their content
    write_picture(photos / "new.png", np.full((8, 9, 3), 200, np.uint8))
    pack_folder(archive, photos)
    planned = d2run(*FAKE, "runner=plan", f"input={archive}", f"output={out}", "quiet=false")
    assert planned.returncode == 0, planned.stderr
    assert "already done" in planned.stdout
    assert d2run(*FAKE, f"input={archive}", f"output={out}").returncode == 3
    assert counts(out) == {"done": 1, "failed": 1, "earlier": done}
    assert d2run(*FAKE, f"input={photos}", f"output={tmp_path}/again").returncode == 3
    assert outputs(out) == outputs(tmp_path / "again")


def test_a_damaged_archive_is_reported(d2run: Run, photos: Path, tmp_path: Path) -> None:
    archive = pack_folder(tmp_path / "x.tar", photos)
    os.truncate(archive, archive.stat().st_size // 2)
    done = d2run(*FAKE, f"input={archive}", f"output={tmp_path}/out")
    assert "warning: skipped: (the rest of the archive): truncated or damaged tar" in done.stderr
    assert counts(tmp_path / "out")["done"] >= 1


def test_what_a_watch_cannot_do(d2run: Run, tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", [])
    watch = ("runner=watch", "runner.max_passes=1", "runner.after=move")
    done = d2run(*FAKE, *watch, f"input={archive}", f"output={tmp_path}/out")
    assert done.returncode == 2
    assert "runner=watch watches a folder" in done.stderr
