"""The service for BentoML's server: from the repository, and exported with its model and built."""

import filecmp
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from bentoml_server import environment, request, served
from tiny_model import CLASS_NAMES, picture, tiny_predictor

from pipeline import Predictor, find_model
from pipeline.store import ModelStore, export_model, save_model

pytestmark = [
    pytest.mark.detectron2,
    pytest.mark.skipif(find_spec("bentoml") is None, reason="the extra 'bentoml' is not installed"),
]
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "bentoml_service"
BENTOML_PAGE = ROOT / "docs" / "bentoml.md"
FORM = "multipart/form-data; boundary=b"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A directory with a model in ``d2run``, BentoML's own files, and images."""
    home = tmp_path_factory.mktemp("home")
    predictor = tiny_predictor()
    with torch.no_grad():  # random weights, but sure of what they say
        predictor.model.roi_heads.box_predictor.cls_score.weight.mul_(1000)
    store = ModelStore(home / "d2run" / "models")
    save_model("crack:v1", predictor, class_names=CLASS_NAMES, store=store)
    for number in range(8):  # of two shapes
        image = picture(72, 100 if number % 2 else 90, seed=number)
        cv2.imwrite(str(home / f"{number}.png"), image)
    return home


@pytest.fixture(scope="module")
def expected(home):
    """The answer of each image, by its content."""
    model = find_model("crack:v1", store=ModelStore(home / "d2run" / "models"))
    paths = sorted(home.glob("*.png"))
    with Predictor(model, device="cpu") as predictor:
        answers = {
            path.read_bytes(): {
                "boxes": found.boxes.tolist(),
                "scores": found.scores.tolist(),
                "classes": found.classes.tolist(),
                "class_names": [CLASS_NAMES[i] for i in found.classes],
            }
            for path in paths
            for found in [predictor(path)]
        }
    assert all(answer["boxes"] for answer in answers.values())
    return answers


def form(*bodies, name="images"):
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), b"x" * 300 + b".png", body)
        for body in bodies
    ]
    return b"".join([*parts, b"--b--\r\n"])


@pytest.fixture(scope="module")
def built(home):
    """The directory of a Bento that BentoML built from an export."""
    store = ModelStore(home / "d2run" / "models")
    folder = Path(export_model("crack", home / "svc", format="bento-service", store=store))
    assert filecmp.cmp(folder / "service.py", EXAMPLE / "service.py", shallow=False)
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "build", str(folder)],
        env=environment(home), cwd=home, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (info,) = home.glob("bentoml/bentos/crack/*/bento.yaml")
    return info.parent


def test_a_built_export_contains_its_model(built):
    info = yaml.safe_load((built / "bento.yaml").read_text())
    assert info["labels"] == {"model": "crack:v1"}
    assert info["args"] == {"tag": "crack:v1", "trust": False}
    assert (built / "src/models/crack/v1/weights.safetensors").is_file()
    dockerfile = (built / "env/docker/Dockerfile").read_text()
    assert "./src/wheels ./src/wheels" in dockerfile


@pytest.fixture(scope="module")
def address(home, built):
    """The built Bento, served where neither d2run nor BentoML has a store."""
    bento = built.rename(home / "bento")  # away from BentoML's store
    empty = home / "empty"
    with served(str(bento), env=environment(empty), log=home / "log") as address:
        yield f"{address}/predict"
    assert not (empty / "d2run").exists()
    assert not list(empty.glob("bentoml/models/*"))


def test_parallel_requests_share_batches_and_do_not_affect_one_another(address, expected):
    images = [*expected] * 8
    bodies = [image[: len(image) // 2] if i % 9 == 4 else image for i, image in enumerate(images)]
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda body: request(address, body), bodies))
    for image, body, (status, answer) in zip(images, bodies, answers, strict=True):
        if body is image:
            assert (status, json.loads(answer)) == (200, [expected[image]])
        else:
            assert status == 400
            assert "image 0: " in answer
    assert len(bodies) == 64
    _, metrics = request(address.replace("/predict", "/metrics"))
    totals = [line.rpartition(" ")[2] for line in metrics.splitlines()
              if line.startswith(("bentoml_service_adaptive_batch_size_count{",
                                  "bentoml_service_adaptive_batch_size_sum{"))]  # fmt: skip
    n_images, n_batches = sorted(map(float, totals), reverse=True)
    assert n_images == 64 > n_batches


def test_several_images_in_a_form(address, expected):
    images = [*expected]
    status, answer = request(address, form(*images), FORM)
    assert (status, json.loads(answer)) == (200, [*expected.values()])
    status, answer = request(address, form(images[0], b"text", images[1]), FORM)
    assert status == 400
    assert "image 1: not an image" in answer


def test_bentomls_client(address, expected, home):
    """The Python of docs/bentoml.md."""
    (code,) = re.findall(
        r"^```python\n(.*?)^```", BENTOML_PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
    code = code.replace("http://localhost:3000", address.removesuffix("/predict"))
    code = f"{code.replace('photo.jpg', '0.png')}\nimport json\nprint(json.dumps(answers))\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=home,
        env=environment(home), capture_output=True, text=True,
    )  # fmt: skip
    answer = expected[(home / "0.png").read_bytes()]
    shown, _, answers = done.stdout.strip().rpartition("\n")
    assert json.loads(answers) == [answer], done.stderr
    assert shown == f"{answer['class_names']} {answer['boxes']}"


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"text", "image/png", "image 0: not an image"),
        (b"", "image/png", "image 0: empty file"),
        (b'{"images": ["a"]}', "application/json", "image 0: not an image"),
        (b"http://127.0.0.1/a.png", "application/x-www-form-urlencoded", "image 0: not an image"),
        (form(b"text"), FORM, "image 0: not an image"),
        (form(), FORM, "at least 1 item"),
        (form(b"text", name="photos"), FORM, "at least 1 item"),
        (form(b"text").replace(b"; filename", b"; f"), FORM, "Invalid file type"),
        (b"text", FORM, "the form cannot be read"),
        (b"text", "multipart/form-data", "the form cannot be read"),
    ],
)
def test_what_is_no_image_is_the_clients_error(address, body, kind, message):
    status, answer = request(address, body, kind)
    assert status == 400
    assert message in answer
    assert "/tmp" not in answer  # no path of the server


def test_pickles_are_refused(address):
    assert request(address, b"cos\n.", "application/vnd.bentoml+pickle")[0] == 415


@pytest.mark.nightly
def test_the_example_serves_a_model_of_the_users_store(home, expected):
    arguments = (str(EXAMPLE), "--arg", "tag=crack:v1")
    env = environment(home)
    with served(*arguments, env=env, log=home / "example.log") as address:
        for image, answer in expected.items():
            status, found = request(f"{address}/predict", image)
            assert (status, json.loads(found)) == (200, [answer])
