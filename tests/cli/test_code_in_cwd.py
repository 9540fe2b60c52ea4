"""Files in the directory where d2run is started are never run, whatever they are called."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from command_line import ROOT, command, environment

OURS = {"conf", "pipeline", "run", "runners"}
# Tried by libraries whether they are installed or not.
OPTIONAL = {"hydra_plugins", "sitecustomize", "usercustomize", "simplejson", "orjson", "IPython"}
BATCH = ("model=mask_rcnn", "runnable=fake", "decode.isolation=process", "sink=[coco,overlay]")
RUN = command(*BATCH, "input=.", "output=../out")
STORE = [sys.executable, "-m", "pipeline.store", "list"]


def plant(folder: Path, names: set[str]) -> Path:
    """Write a module of each name that leaves a line in ``ran.txt``, and a program called git."""
    ran = folder.parent / "ran.txt"
    for name in names:
        (folder / f"{name}.py").write_text(f"open({str(ran)!r}, 'a').write(__name__ + ' ')\n")
    git = folder / "git"
    git.write_text(f"#!/bin/sh\necho git >> '{ran}'\n")
    git.chmod(0o755)
    return ran


def loaded_by_python(folder: Path) -> set[str]:
    """The modules that ``python -m`` loads before any code of ours."""
    (folder / "empty.py").write_text("import sys; print(*sys.modules)")
    done = subprocess.run(
        [sys.executable, "-m", "empty"], cwd=folder, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(RUN, id="batch"),
        pytest.param(
            [*RUN, "runner=watch", "runner.max_passes=1", "runner.settle_s=0"], id="watch"
        ),
        pytest.param([str(Path(sys.executable).with_name("d2run")), *RUN[2:]], id="d2run"),
        pytest.param(STORE, id="store"),
    ],
)
def test_planted_modules_never_run(tmp_path: Path, arguments: list[str]) -> None:
    folder = tmp_path / "inbox"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(
        (ROOT / "examples/shapes/scenes/scene_2026_0001.jpg").read_bytes()
    )
    names = sys.stdlib_module_names | set(packages_distributions()) | OPTIONAL | OURS
    if arguments is STORE:
        names -= loaded_by_python(tmp_path) | OURS
    ran = plant(folder, {name for name in names if name.isidentifier()})
    path = os.pathsep.join(("", ".", os.environ["PATH"]))
    env = {**environment(tmp_path), "PATH": path}
    done = subprocess.run(arguments, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not ran.exists(), ran.read_text()
