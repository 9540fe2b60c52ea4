"""The package itself: installable alone, and what Hydra and its users need of its files."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hydra_plugins.hydra_gpu_launcher.gpu_launcher import GpuLauncherConf

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "packaging/hydra-gpu-launcher"
MODULES = sorted((PACKAGE / "hydra_plugins/hydra_gpu_launcher").glob("*.py"))


def test_files() -> None:
    assert (PACKAGE / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert not (PACKAGE / "hydra_plugins/__init__.py").exists()  # others' plugins would be hidden
    # Hydra imports every module without an underscore at every start
    assert [path.name for path in MODULES if path.name[0] != "_"] == ["gpu_launcher.py"]
    assert len(MODULES) <= 13
    assert max(len(path.read_text().splitlines()) for path in MODULES) <= 300


@pytest.mark.nightly
def test_the_launcher_is_light() -> None:
    code = (
        "import sys, hydra.core.plugins; before = set(sys.modules); "
        "import hydra_plugins.hydra_gpu_launcher.gpu_launcher; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = {"hydra_plugins", "hydra_plugins.hydra_gpu_launcher"}
    assert set(done.stdout.split()) - own <= {"hydra_plugins.hydra_gpu_launcher.gpu_launcher"}


def test_the_readme_has_all_options_with_their_defaults() -> None:
    text = (PACKAGE / "README.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `hydra\.launcher\.(\w+)` \| `(\w+)` \|", text, re.MULTILINE))
    fields = [each for each in dataclasses.fields(GpuLauncherConf) if each.name != "_target_"]
    shown = {False: "false", True: "true", None: "null"}
    assert rows == {
        each.name: shown[each.default] if isinstance(each.default, (bool, type(None)))
        else str(each.default)
        for each in fields
    }  # fmt: skip


@pytest.mark.nightly
def test_it_installs_alone(tmp_path: Path) -> None:
    uv = shutil.which("uv") or pytest.skip("needs uv")
    python = tmp_path / "venv/bin/python"
    clone = tmp_path / "clone"
    shutil.copytree(PACKAGE, clone)
    for command in (
        [uv, "venv", "--python", sys.executable, str(tmp_path / "venv")],
        [uv, "pip", "install", "--python", str(python), str(clone)],
    ):
        subprocess.run(command, cwd=tmp_path, check=True)
    shutil.rmtree(clone)
    (tmp_path / "records").mkdir()
    done = subprocess.run(
        [python, str(Path(__file__).with_name("app.py")), "-m", "hydra/launcher=gpu", "x=1,2",
         "hydra.launcher.slots=2"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 done"
