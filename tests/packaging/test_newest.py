"""d2run as README.md installs it, with the newest libraries, not the pinned; needs an index."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

pytestmark = [pytest.mark.nightly, pytest.mark.detectron2, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]
SCENES = ROOT / "examples" / "shapes" / "scenes"
FAST = ("tests/pipeline", "tests/detectron2/test_parity.py")


def environment(**variables: object) -> dict[str, str]:
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "UV_CONSTRAINT", "UV_PROJECT_ENVIRONMENT")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {name: str(value) for name, value in variables.items()}


def run(*command: object, status: int = 0, cwd: Path = ROOT, **variables: object) -> Any:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def uv() -> str:
    found = shutil.which("uv")
    assert found, "the README's commands need uv"
    return found


@pytest.fixture(scope="module")
def d2run(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, installed as a tool."""
    folder = tmp_path_factory.mktemp("tool")
    variables = {"UV_TOOL_DIR": folder / "tools", "UV_TOOL_BIN_DIR": folder / "bin"}
    run(uv, "tool", "install", "--python", sys.executable, ".", **variables)
    return folder / "bin" / "d2run"


def instances(output: Path) -> dict[str, list[Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        found: dict[str, list[Any]] = importlib.import_module("agreement").of_job(
            output / "predictions.jsonl"
        )
    return found


def test_the_first_command_says_nothing_and_finds_the_same(d2run: Path, tmp_path: Path) -> None:
    arguments = ("model=shapes", f"input={SCENES}", "device=cpu")
    newest = run(d2run, *arguments, "output=newest", cwd=tmp_path)
    assert newest.stderr == ""
    assert "8 done" in newest.stdout
    run(sys.executable, ROOT / "run.py", *arguments, "output=pinned", cwd=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        compare = importlib.import_module("agreement").compare
    # the same bytes so far; another torch may move the last digits
    agreement = compare(instances(tmp_path / "newest"), instances(tmp_path / "pinned"), "fp32")
    assert agreement.detections >= 20
    assert agreement.holds
    versions = json.loads((tmp_path / "newest/run.json").read_text())["versions"]
    assert versions["torch"]
    assert "shapes" in run(d2run.with_name("d2run-store"), "list", cwd=tmp_path).stdout


def test_errors_are_all_that_is_said(d2run: Path, tmp_path: Path) -> None:
    scene = next(SCENES.glob("*.jpg"))
    (tmp_path / "broken.jpg").write_bytes(scene.read_bytes()[:2000])
    (tmp_path / "whole.jpg").write_bytes(scene.read_bytes())
    done = run(d2run, "model=shapes", "input=.", "output=out", status=3, cwd=tmp_path)
    assert done.stderr.startswith("error: broken.jpg: ")
    assert not re.search("leaked|Warning", done.stderr)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)], ids=["SIGINT", "SIGTERM"]
)
def test_a_stopped_watch_reports_no_leaks(
    d2run: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    (tmp_path / "inbox").mkdir()
    shutil.copy(next(SCENES.glob("*.jpg")), tmp_path / "inbox")
    options = ["model=shapes", "input=inbox", "output=out", "runner.ready=rename", "quiet=true"]
    command = [str(d2run), "runner=watch", *options]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    ) as watch:
        results, until = tmp_path / "out" / "predictions.jsonl", monotonic() + 300
        while not (results.exists() and results.stat().st_size) and monotonic() < until:
            sleep(0.2)
        watch.send_signal(number)
        _, said = watch.communicate()
    assert watch.returncode == status, said
    assert not re.search("leaked|Warning", said)


def test_a_fast_part_of_the_suite(uv: str, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    run(uv, "venv", "--python", sys.executable, tmp_path / "venv", cwd=tmp_path)
    tools = ("pytest", "pytest-timeout", "pytest-xdist", "packaging", "scikit-image", "openvino")
    # outside the clone: inside, uv takes its pins
    run(uv, "pip", "install", "--python", python, ROOT, *tools, cwd=tmp_path)
    options = ("-W", "default", "-m", "not slow and not nightly and not gpu", "-q", "--no-header")
    done = run(python, "-m", "pytest", *options, "-p", "no:cacheprovider", *FAST)
    sys.stdout.write(done.stdout)  # the warnings, for readers of the log
    assert re.search(r"\d+ passed", done.stdout)


@pytest.mark.parametrize(
    "installer",
    [
        pytest.param("uv pip install --dry-run --no-sources --python {python} {root}", id="uv"),
        pytest.param("{python} -m pip install --dry-run --no-deps {root}", id="pip"),
    ],
)
def test_an_installed_detectron2_is_kept(uv: str, tmp_path: Path, installer: str) -> None:
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2/__init__.py").write_text("")
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "detectron2"\nversion = "0.6+cu128"\n'
    )
    python = tmp_path / "venv" / "bin" / "python"
    run(uv, "venv", "--seed", "--python", sys.executable, tmp_path / "venv", cwd=tmp_path)
    run(uv, "pip", "install", "--python", python, ".", cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = installer.format(python=python, root=ROOT).split()
    done = run(*command, cwd=elsewhere)
    said = done.stdout + done.stderr
    assert "d2run" in said
    assert not re.search(r"[+-] detectron2==|detectron2-0\.7", said)
