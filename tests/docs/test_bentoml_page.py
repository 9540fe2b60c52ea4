"""The service of docs/bentoml.md, with BentoML's runner in this process."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RUN = """
import sys

from tiny_model import CLASS_NAMES, picture, tiny_predictor

from pipeline import store

predictor = tiny_predictor()
store.save_model("mask_rcnn", predictor, class_names=CLASS_NAMES)
names = {}
exec(sys.argv[1], names)
from PIL import Image

names["runner"].init_local(quiet=True)
image = picture()
answer = names["predict"](Image.fromarray(image[:, :, ::-1].copy()))
wanted = predictor(image)["instances"]
assert answer["boxes"] == wanted.pred_boxes.tensor.tolist() != []
assert answer["scores"] == wanted.scores.tolist()
assert answer["classes"] == wanted.pred_classes.tolist()
assert names["svc"].name == "detectron_service"
assert [one.name for one in names["svc"].runners] == ["mask_rcnn"]
"""


@pytest.mark.detectron2
@pytest.mark.skipif(find_spec("bentoml") is None, reason="the extra 'bentoml' is not installed")
def test_the_service_of_the_tutorials(tmp_path):
    page = (ROOT / "docs" / "bentoml.md").read_text()
    (code,) = re.findall(r"```text\n(import bentoml\n.*?)```", page, re.DOTALL)
    env = {
        "PATH": os.environ["PATH"],
        "D2RUN_HOME": str(tmp_path / "d2run"),
        "BENTOML_HOME": str(tmp_path / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]),
    }
    command = [sys.executable, "-W", "ignore", "-c", RUN, code]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
