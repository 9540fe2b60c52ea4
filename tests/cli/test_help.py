"""What a user asks before running anything; none of it may load torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from command_line import ROOT, Run


def test_help_lists_the_groups(d2run: Run) -> None:
    done = d2run("--help")
    assert done.returncode == 0
    for group in ("model", "store", "runnable", "source", "stage", "sink", "runner"):
        assert f"\n{group}: " in done.stdout
    assert "python run.py model=mask_rcnn device=cuda:0 input=dir/" in done.stdout


def test_cfg_job(d2run: Run) -> None:
    done = d2run("model=mask_rcnn", "device=cuda:0", "input=dir/", "--cfg", "job")
    assert done.returncode == 0
    for line in ("input: dir/", "device: cuda:0", "  name: mask_rcnn"):
        assert f"\n{line}\n" in "\n" + done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--help"], id="help"),
        pytest.param(["--cfg", "job"], id="cfg"),
        pytest.param(["model=nonsense"], id="wrong option"),
        pytest.param(["input=gone"], id="wrong input"),
        pytest.param(["runner=plan", "input=."], id="plan"),
    ],
)
def test_torch_is_not_imported(arguments: list[str], tmp_path: object) -> None:
    code = (
        f"import runpy, sys; sys.argv = {[str(ROOT / 'run.py'), *arguments]!r}\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'detectron2', 'supervision', 'matplotlib'} & set(sys.modules)\n"
        "print(heavy or '', file=sys.stderr); sys.exit(bool(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=str(tmp_path), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_import_of_the_library_is_light() -> None:
    code = "import sys, pipeline, runners, pipeline.testing; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
