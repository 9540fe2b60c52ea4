"""What a user asks before running anything; none of it may load torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def test_version(d2run: Run) -> None:
    from pipeline.system.versions import VERSION

    done = d2run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"d2run {VERSION}\n", "")


HEAVY = ("torch", "torchvision", "detectron2", "openvino", "supervision", "matplotlib")
HEAVY += ("pyarrow", "bentoml")
LIGHT = [
    ["--help"],
    ["--cfg", "job"],
    ["runner=plan", "input=examples/shapes/scenes"],
    ["model=nonsense"],
    ["nonsense=1"],
    ["input=gone"],
    [],
    ["input=.", "batch_size=0"],
    ["input=.", "decode_threads=0"],
    ["input=.", "device=gpu"],
    ["input=.", "stage.min_score.threshold=2"],
    ["input=.", "stage=[keep_classes]", "stage.keep_classes.names=[persn]"],
    ["input=.", "runnable.precision=fp8"],
    ["input=.", "model.weights=gone.pth"],
    ["input=.", "model=stored", "model.tag=shape"],
    ["input=.", "sink.overlay.quality=200"],
    ["input", "dir/"],
    ["--device", "cpu"],
    ["+stage.min_score.foo=1"],
    ["stage.nms.threshold=0.5"],
    ["input=.", "stage=[]", "+stage.x={_target_: pipeline.sources.decode.worker.Worker}"],
    ["input=.", "model.weights=~/a (1).pth"],
]


@pytest.mark.parametrize(
    ("options", "heavy"),
    [
        pytest.param([], (*HEAVY, "cv2"), id="default sinks"),
        pytest.param(["sink=[]"], (*HEAVY, "cv2"), id="no sink", marks=pytest.mark.nightly),
    ],
)
def test_what_needs_no_model_imports_nothing_heavy(
    tmp_path: Path, options: list[str], heavy: tuple[str, ...]
) -> None:
    script = tmp_path / "all_of_them.py"
    script.write_text(
        f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
import run

for arguments in {LIGHT!r}:
    sys.argv = ["run.py", *arguments, *{options!r}]
    os.environ.pop("HYDRA_FULL_ERROR", None)  # set by the run before
    try:
        status = run.main()
    except SystemExit as exc:
        status = exc.code or 0
    print(">", status, sorted(set({heavy!r}) & set(sys.modules)), arguments, flush=True)
"""
    )
    done = subprocess.run(
        [sys.executable, script], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("> ")]
    wanted = [f"> {0 if i < 3 else 2} [] {arguments}" for i, arguments in enumerate(LIGHT)]
    assert told == wanted, done.stderr


def test_import_of_the_library_is_light() -> None:
    code = "import sys, pipeline, runners, pipeline.testing; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
