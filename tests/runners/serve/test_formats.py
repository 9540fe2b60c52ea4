"""The formats of ``POST /predict``, and ``POST /overlay``, with the fake model."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import supervision
from batches import run
from pycocotools import mask
from served import Served, form, image_file
from served import served as serving
from small_records import SIZE, predictions, result

from pipeline.encoding import encode
from pipeline.job import Outcome
from pipeline.masks import InstanceMasks
from pipeline.records import Categories, Predictions, Result, Segment
from pipeline.sinks.label_maps import LabelMaps
from runners.serve.errors import RequestError
from runners.serve.http.formats import coco, jsonl, roboflow
from runners.serve.uploads import Answer

IMAGES = {"a.png": image_file(40, 50), "b.png": image_file(30, 60), "c.png": image_file(50, 40)}
CATEGORIES = Categories(("person", "cat"))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as service:
        yield service


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of the same images."""
    folder = tmp_path_factory.mktemp("batch")
    for name, content in IMAGES.items():
        (folder / name).write_bytes(content)
    run(f"input={folder}", f"output={folder / 'out'}")
    return folder / "out"


def answer(p: Predictions | None) -> Answer:
    frame = result(predictions()).frame
    found = None if p is None else Result(frame, p)
    line = b"" if found is None else encode(found)
    return Answer(Outcome(None, timings={"forward": 0.5, "waiting": 9.0}), line, frame, found)  # type: ignore[arg-type]


def test_httpx(served: Served, batch: Path) -> None:
    """A client that makes forms of its own kind."""
    url = f"http://127.0.0.1:{served.port}/predict"
    first, *_ = (batch / "predictions.jsonl").read_text().splitlines()
    with httpx.Client() as client:
        raw = client.post(url, content=IMAGES["a.png"])
        several = client.post(url, files=[("image", item) for item in IMAGES.items()])
    assert raw.json() == json.loads(first) | {"asset": "image"}
    assert several.text == (batch / "predictions.jsonl").read_text()


def test_several_images_are_the_lines_of_a_batch(served: Served, batch: Path) -> None:
    response = served.post("/predict", *form(*IMAGES.items()))
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.body == (batch / "predictions.jsonl").read_bytes()


def test_one_image(served: Served, batch: Path) -> None:
    response = served.post("/predict", *form(("a.png", IMAGES["a.png"])))
    assert response.headers["content-type"] == "application/json"
    assert response.body == (batch / "predictions.jsonl").read_bytes().splitlines(True)[0]
    raw = served.post("/predict", IMAGES["a.png"])
    assert raw.json == response.json | {"asset": "image"}


def test_an_image_that_fails_among_others(served: Served) -> None:
    files = [("a.png", IMAGES["a.png"]), ("x.png", b"x"), ("c.png", IMAGES["c.png"])]
    response = served.post("/predict", *form(*files))
    first, failed, last = response.lines
    assert response.status == 200
    assert (first["image_id"], last["image_id"], last["asset"]) == (1, 3, "c.png")
    assert (failed["asset"], failed["step"]) == ("x.png", "decode")
    assert failed["error"].startswith("not an image")
    for format_ in ("coco", "roboflow"):  # they have no place for errors
        refused = served.post(f"/predict?format={format_}", *form(*files))
        assert (refused.status, refused.json) == (422, failed)  # which names the image
    assert served.post("/predict", *form(("x.png", b"x"), ("y.png", b"y"))).status == 422


def test_coco_is_the_file_of_a_batch(served: Served, batch: Path) -> None:
    response = served.post("/predict?format=coco", *form(*IMAGES.items()))
    assert response.headers["content-type"] == "application/json"
    assert response.body == (batch / "coco.json").read_bytes()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_roboflow_is_read_by_supervision(served: Served) -> None:
    response = served.post("/predict?format=roboflow", IMAGES["a.png"]).json
    line = served.post("/predict", IMAGES["a.png"]).json
    assert set(response) == {"inference_id", "time", "image", "predictions"}
    assert response["image"] == {"width": 50, "height": 40}
    assert len({one["detection_id"] for one in response["predictions"]}) == 3
    found = supervision.Detections.from_inference(response)
    instances = line["instances"]
    np.testing.assert_allclose(found.xyxy, [one["box"] for one in instances])
    np.testing.assert_allclose(found.confidence, [one["score"] for one in instances])
    assert found.class_id.tolist() == [one["class_id"] for one in instances]
    assert found["class_name"].tolist() == [one["class_name"] for one in instances]
    np.testing.assert_array_equal(found.mask, [mask.decode(one["mask"]) for one in instances])


def test_roboflow_of_several_is_a_list(served: Served) -> None:
    response = served.post("/predict?format=roboflow", *form(*IMAGES.items())).json
    assert [one["image"]["width"] for one in response] == [50, 60, 40]


def test_roboflow_outlines_and_keypoints() -> None:
    dense = np.zeros((4, *SIZE), bool)
    dense[0, 1, 2] = True  # one pixel
    dense[1, 2, 1:5] = True  # a line
    dense[2, 0, 0] = dense[2, 3:7, 2:5] = True  # two parts
    points = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    p = predictions(4, masks=InstanceMasks.from_dense(dense), keypoints=points)
    p.boxes[3] = np.nan
    found = json.loads(roboflow([answer(p)], CATEGORIES).body)
    outlines = [[(q["x"], q["y"]) for q in one["points"]] for one in found["predictions"]]
    assert outlines == [
        [(2, 1)] * 3,
        [(1, 2), (4, 2), (4, 2)],
        [(2, 3), (2, 6), (4, 6), (4, 3)],
    ]  # and not the one whose box is not finite
    assert found["time"] == 0.5
    assert found["predictions"][0]["keypoints"] == [
        {"x": 0.0, "y": 1.0, "confidence": 2.0, "class_id": 0, "class": "0"},
        {"x": 3.0, "y": 4.0, "confidence": 5.0, "class_id": 1, "class": "1"},
    ]
    empty = predictions(1, masks=InstanceMasks.from_dense(np.zeros((1, *SIZE), bool)))
    (one,) = json.loads(roboflow([answer(empty)], CATEGORIES).body)["predictions"]
    assert one["points"] == []


def test_label_maps_are_inside(tmp_path: Path) -> None:
    sem_seg = np.arange(48, dtype=np.int32).reshape(SIZE)
    panoptic = np.full(SIZE, 70000, np.int32)
    segments = (Segment(70000, 0, "person", True, 0.98, 48),)
    p = predictions(sem_seg=sem_seg, panoptic_seg=panoptic, segments=segments)
    given = answer(p)
    line = json.loads(jsonl([given], CATEGORIES).body)
    assert given.result is not None
    with LabelMaps(tmp_path) as sink:
        sink.write(given.result)
    names = json.loads(given.line)
    pairs = [
        (line["sem_seg"], names["sem_seg"]),
        (line["panoptic_seg"]["file"], names["panoptic_seg"]["file"]),
    ]
    for uri, name in pairs:
        kind, _, data = uri.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == (tmp_path / name).read_bytes()
    assert line["panoptic_seg"]["segments"] == names["panoptic_seg"]["segments"]
    assert line["instances"] == names["instances"]


def test_an_image_that_a_stage_dropped() -> None:
    content = jsonl([answer(predictions()), answer(None)], CATEGORIES)
    kept, dropped = [json.loads(line) for line in content.body.splitlines()]
    assert "dropped" not in kept
    assert dropped == kept | {"image_id": 2, "instances": [], "dropped": True}
    dataset = json.loads(coco([answer(None)], CATEGORIES).body)
    assert (len(dataset["images"]), dataset["annotations"]) == (1, [])
    assert json.loads(roboflow([answer(None)], CATEGORIES).body)["predictions"] == []


@pytest.mark.parametrize("render", [coco, roboflow])
def test_formats_of_instances_need_a_model_with_instances(render: Any) -> None:
    with pytest.raises(RequestError, match="use format=jsonl") as raised:
        render([answer(predictions(0))], Categories(stuff_names=("sky",)))
    assert raised.value.status == 422


def test_an_unknown_format(served: Served) -> None:
    response = served.post("/predict?format=yolo", IMAGES["a.png"])
    assert (response.status, response.json) == (
        422,
        {"error": "format=yolo: expected one of jsonl, coco, roboflow"},
    )


def test_unknown_parameters(served: Served) -> None:
    response = served.post("/predict?format=coco&min_score=0.9", IMAGES["a.png"])
    assert response.status == 422
    assert response.json == {"error": "no parameter 'min_score'; known: format"}
    response = served.post("/overlay?format=coco", IMAGES["a.png"])
    assert (response.status, response.json) == (422, {"error": "no parameter 'format'"})


def test_overlay(served: Served) -> None:
    response = served.post("/overlay", IMAGES["a.png"])
    assert response.headers["content-type"] == "image/jpeg"
    drawn = cv2.imdecode(np.frombuffer(response.body, np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape[0] / drawn.shape[1] == 40 / 50
    several = served.post("/overlay", *form(*IMAGES.items()))
    assert (several.status, several.json) == (422, {"error": "expected one image, got 3"})
    assert served.post("/overlay", b"x").status == 422


def test_curl(served: Served, batch: Path, tmp_path: Path) -> None:
    for name, content in IMAGES.items():
        (tmp_path / name).write_bytes(content)
    url = f"http://127.0.0.1:{served.port}/predict"

    def curl(*arguments: str) -> bytes:
        command = ["curl", "-sS", "--noproxy", "*", *arguments, url]
        return subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.PIPE).stdout

    lines = (batch / "predictions.jsonl").read_bytes()
    raw = curl("--data-binary", "@a.png")
    assert json.loads(raw) == json.loads(lines.splitlines()[0]) | {"asset": "image"}
    files = [part for name in IMAGES for part in ("-F", f"image=@{name}")]
    assert curl(*files) == lines


def test_openapi(served: Served) -> None:
    document = served.get("/openapi.json").json
    predict = document["paths"]["/predict"]["post"]
    assert set(predict["requestBody"]["content"]) == {
        "multipart/form-data", "application/octet-stream", "image/*",
    }  # fmt: skip
    assert predict["parameters"][0]["schema"]["enum"] == ["jsonl", "coco", "roboflow"]
    assert {"200", "400", "413", "415", "422", "429", "503"} <= set(predict["responses"])
    example = predict["responses"]["200"]["content"]["application/json"]["example"]
    line = served.post("/predict", IMAGES["a.png"]).json
    assert example.keys() | {"time_s"} == line.keys()
    assert example["instances"][0].keys() == line["instances"][0].keys()
    infer = document["paths"]["/v2/models/{name}/infer"]["post"]
    schema = infer["requestBody"]["content"]["application/json"]["schema"]
    assert "$ref" not in json.dumps(schema)
    assert "securitySchemes" not in document["components"]  # there is no token
    assert schema["properties"]["inputs"]["items"]["required"] == ["name", "shape", "datatype"]
    assert document["components"]["schemas"]["ErrorBody"]["required"] == ["error"]
