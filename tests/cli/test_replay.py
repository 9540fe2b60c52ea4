"""``runnable=replay`` on the command line: sweeps, no torch, and three thresholds of a model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from batches import run
from command_line import ROOT, Run, environment
from digest_cases import _write_scenes

FILES = ("predictions.jsonl", "coco.json", "coco_results.json")
EXAMPLES = ROOT / "examples/shapes/scenes"


def content(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in FILES]


def test_a_sweep_needs_no_model_option(d2run: Run, photos: Path, tmp_path: Path) -> None:
    fake = ("runnable=fake", "model=shapes", f"input={photos}", "sink=[coco]", "quiet=true")
    out = tmp_path / "out"
    assert d2run(*fake, "stage=[]", f"output={out}/all").returncode == 3
    sweep = d2run("-m", "runnable=replay", f"runnable.run={out}/all", "sink=[coco]",
                  "stage.min_score.threshold=0.6,0.8,1", f"output={out}/replay")  # fmt: skip
    assert sweep.returncode == 3, sweep.stderr
    for i, threshold in enumerate((0.6, 0.8, 1)):
        model = d2run(*fake, f"stage.min_score.threshold={threshold}", f"output={out}/{threshold}")
        assert model.returncode == 3
        assert content(out / "replay" / str(i)) == content(out / str(threshold))
    refused = d2run("runnable=replay")
    assert (refused.returncode, refused.stderr.strip()) == (
        2, "error: runnable.run has no value; set runnable.run=VALUE"
    )  # fmt: skip
    planned = d2run("runner=plan", "runnable=replay", f"runnable.run={out}/all", "stage=[]",
                    f"output={out}/plan")  # fmt: skip
    assert planned.returncode == 0, planned.stderr
    assert ".png" in planned.stdout
    assert "7" in planned.stdout


def test_neither_torch_nor_opencv_is_imported(d2run: Run, photos: Path, tmp_path: Path) -> None:
    d2run("runnable=fake", "model=shapes", f"input={photos}", "stage=[]", f"output={tmp_path}/run")
    code = (
        "import sys\n"
        "from runners.entry import main\n"
        "assert main() == 3\n"
        "assert not {'torch', 'detectron2', 'cv2'} & sys.modules.keys()\n"
    )
    arguments = ("runnable=replay", f"runnable.run={tmp_path}/run", "stage=[]", "sink=[coco]",
                 f"output={tmp_path}/out", "quiet=true")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.detectron2
@pytest.mark.parametrize(
    "n_scenes",
    [0, pytest.param(3000, marks=[pytest.mark.nightly, pytest.mark.timeout(7200)])],
    ids=["examples", "many"],
)
def test_each_threshold_equals_the_run_of_the_model(n_scenes: int, tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    if n_scenes:
        scenes.mkdir()
        _write_scenes(scenes, 9, n_scenes)
    model = ("model=shapes", "runnable=detectron2", "device=cpu",
             f"input={scenes if n_scenes else EXAMPLES}")  # fmt: skip
    replay = ("model=recorded", "source=recorded", "runnable=replay", f"runnable.run={tmp_path}/0")
    run(*model, "stage.min_score.threshold=0.05", f"output={tmp_path}/0")
    for threshold in (0.3, 0.5, 0.8):
        common = "stage=[min_score]", f"stage.min_score.threshold={threshold}"
        run(*model, *common, f"output={tmp_path}/model{threshold}")
        run(*replay, *common, f"output={tmp_path}/replay{threshold}")
        assert content(tmp_path / f"replay{threshold}") == content(tmp_path / f"model{threshold}")
