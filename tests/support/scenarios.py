"""Scenarios of tests/faults: each in a process that has imported all once, and forks its runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from command_line import ROOT, write_picture
from dying import ended
from packing import pack_folder

SAME = ("predictions.jsonl", "coco.json", "coco_results.json", "failures.jsonl", "inputs.jsonl")


def make_inputs(folder: Path, n: int) -> list[str]:
    """Write images, one of them broken; return the command that processes them."""
    for i in range(n):
        write_picture(folder / f"{i // 50}" / f"{i}.png", np.full((24, 32, 3), i % 251, np.uint8))
    (folder / "0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    return ["model=mask_rcnn", "runnable=fake", f"input={folder}", "quiet=true"]


def packed(arguments: list[str], folder: Path, kind: str) -> list[str]:
    """Pack the input as it is now; return the command that reads the archive: the same ids."""
    if not kind:
        return arguments
    path = pack_folder(folder.with_suffix(f".{kind}"), folder)
    return [f"input={path}" if each.startswith("input=") else each for each in arguments]


def outputs(out: Path) -> dict[str, bytes]:
    """What must be the same, whatever happened on the way."""
    files = {name: (out / name).read_bytes() for name in SAME}
    pictures = sorted(out.glob("overlay/**/*.jpg"))
    return files | {str(path.relative_to(out)): path.read_bytes() for path in pictures}


def tell(text: str) -> None:
    sys.stdout.write(text + "\n")


def with_maps() -> None:
    """Have the made-up model find stuff, too."""
    from pipeline.runnables.fake import FakeRunnable

    predict = FakeRunnable.predict

    def with_map(self: Any, frames: Any) -> Any:
        return [
            replace(found, sem_seg=np.full(found.image_size, 1, np.int32), stuff_names=("a", "b"))
            for found in predict(self, frames)
        ]

    FakeRunnable.predict = with_map  # type: ignore[method-assign]


def told(child: Callable[[], int], errors: Path) -> tuple[int, list[str]]:
    """Exit status and lines on standard error of a fork."""
    saved = os.dup(2)
    with errors.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        status = ended(child())
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    return status, errors.read_text().splitlines()


def run_scenario(script: str, tmp_path: Path, name: str, *arguments: object) -> str:
    """Run ``script NAME FOLDER ARGUMENTS`` in a separate process; return its report."""
    done = subprocess.run(
        [sys.executable, script, name, str(tmp_path), json.dumps(arguments)],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests/support"))),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
