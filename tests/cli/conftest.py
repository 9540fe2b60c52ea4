"""The command line as a user has it: subprocesses with next to no environment."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, command, environment, write_picture
from forking import Forks


@pytest.fixture
def d2run(tmp_path: Path, forks: Forks) -> Run:
    """Run ``run.py`` with these arguments in a fresh working directory.

    In a fork of a process that has imported everything, unless the environment is another: what
    Python makes of that, it does when it starts.
    """
    cwd = tmp_path / "cwd"
    cwd.mkdir()

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        whole = command(*arguments)
        options = {"cwd": cwd, "env": environment(tmp_path), "timeout": 100, **options}
        if options["env"] == environment(tmp_path):
            return forks.run(whole[1:], **options)
        return subprocess.run(
            whole, capture_output=True, text=True, errors="surrogateescape", **options
        )

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with six intact images, a broken one, and a file that is not an image."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, name in enumerate(("a1.jpg", "a2.jpg", "a10.jpg", "b.png", "sub/b.png", "sub/c.jpg")):
        write_picture(folder / name, rng.integers(0, 256, (40 + i, 60, 3), np.uint8))
    whole = (folder / "a1.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not an image")
    return folder
