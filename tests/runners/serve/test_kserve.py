"""The Open Inference Protocol, with Triton's own client."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from served import Served, image_file
from served import served as serving
from tritonclient.utils import InferenceServerException

IMAGES = [image_file(12), image_file(20), image_file(16)]
MODEL, VERSION = "shapes", "1"
INFER = f"/v2/models/{MODEL}/infer"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving("model=shapes") as service:
        yield service


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{served.port}", concurrency=4) as client:
        yield client


def tensor(
    images: list[bytes],
    *,
    shape: list[int] | None = None,
    name: str = "image",
    datatype: str = "BYTES",
    binary: bool = True,
) -> Any:
    elements = images if binary else [base64.b64encode(each) for each in images]
    shape = shape or [len(images)]
    wanted = triton.InferInput(name, shape, datatype)
    array = np.array(elements, object).reshape(shape)
    if datatype != "BYTES":
        array = np.zeros(shape, triton.triton_to_np_dtype(datatype))
    return wanted.set_data_from_numpy(array, binary_data=binary)


def lines_of(served: Served, images: list[bytes]) -> list[dict[str, Any]]:
    return [served.post("/predict", each).json for each in images]


def assert_same_as_lines(result: Any, lines: list[dict[str, Any]]) -> None:
    instances = [instance for line in lines for instance in line["instances"]]
    assert result.as_numpy("counts").tolist() == [len(line["instances"]) for line in lines]
    assert result.as_numpy("counts").dtype == result.as_numpy("classes").dtype == np.int64
    boxes, scores = result.as_numpy("boxes"), result.as_numpy("scores")
    assert boxes.dtype == scores.dtype == np.float32
    np.testing.assert_array_equal(boxes, np.float32([one["box"] for one in instances]))
    np.testing.assert_array_equal(scores, np.float32([one["score"] for one in instances]))
    assert result.as_numpy("classes").tolist() == [one["class_id"] for one in instances]
    names = [as_bytes(name) for name in result.as_numpy("class_names")]
    assert names == [one["class_name"].encode() for one in instances]
    masks = [json.loads(mask) for mask in result.as_numpy("masks")]
    assert masks == [one["mask"] for one in instances]


def as_bytes(element: bytes | str) -> bytes:
    return element if isinstance(element, bytes) else element.encode()


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, VERSION)
    assert not client.is_model_ready("other")
    assert not client.is_model_ready(MODEL, "2")
    server = client.get_server_metadata()
    assert (server["name"], "binary_tensor_data" in server["extensions"]) == ("d2run", True)
    model = client.get_model_metadata(MODEL)
    assert (model["name"], model["versions"]) == (MODEL, [VERSION])
    assert model["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    outputs = {one["name"]: (one["datatype"], one["shape"]) for one in model["outputs"]}
    assert outputs == {
        "boxes": ("FP32", [-1, 4]),
        "scores": ("FP32", [-1]),
        "classes": ("INT64", [-1]),
        "class_names": ("BYTES", [-1]),
        "counts": ("INT64", [-1]),
        "masks": ("BYTES", [-1]),
    }
    config = client.get_model_config(MODEL)
    assert config["input"] == [{"name": "image", "data_type": "TYPE_STRING", "dims": [-1]}]
    assert [one["name"] for one in config["output"]] == list(outputs)


@pytest.mark.parametrize("version", ["", VERSION])
@pytest.mark.parametrize("shape", [[3], [1, 3], [3, 1]])
def test_infer_with_the_clients_defaults(
    served: Served, client: Any, version: str, shape: list[int]
) -> None:
    result = client.infer(MODEL, [tensor(IMAGES, shape=shape)], version, request_id="7")
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("7", MODEL, "1")
    assert all("data" not in output for output in response["outputs"])
    assert_same_as_lines(result, lines_of(served, IMAGES))


def test_infer_with_json(served: Served, client: Any) -> None:
    names = ["scores", "masks", "boxes", "classes", "class_names", "counts"]
    wanted = [triton.InferRequestedOutput(name, binary_data=False) for name in names]
    result = client.infer(MODEL, [tensor(IMAGES, binary=False)], outputs=wanted)
    outputs = result.get_response()["outputs"]
    assert [output["name"] for output in outputs] == names
    assert all("parameters" not in output for output in outputs)
    assert_same_as_lines(result, lines_of(served, IMAGES))


def test_outputs_are_selected(client: Any) -> None:
    wanted = [
        triton.InferRequestedOutput("scores"),
        triton.InferRequestedOutput("counts", binary_data=False),
    ]
    result = client.infer(MODEL, [tensor(IMAGES[:1])], outputs=wanted)
    scores, counts = result.get_response()["outputs"]
    assert scores["parameters"] == {"binary_data_size": 12}
    assert (counts["data"], counts["shape"]) == ([3], [1])
    assert result.as_numpy("boxes") is None


def test_async_infer(served: Served, client: Any) -> None:
    pending = [client.async_infer(MODEL, [tensor([each])]) for each in IMAGES * 4]
    for each, one in zip(IMAGES * 4, pending, strict=True):
        assert_same_as_lines(one.get_result(), lines_of(served, [each]))


def test_plain_json(served: Served) -> None:
    data = [base64.b64encode(IMAGES[0]).decode()]
    request = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": data}]}
    response = served.post(INFER, json.dumps(request))
    assert response.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in response.headers
    outputs = {output["name"]: output for output in response.json["outputs"]}
    (line,) = lines_of(served, IMAGES[:1])
    assert outputs["boxes"]["shape"] == [3, 4]
    flat = [value for instance in line["instances"] for value in instance["box"]]
    assert outputs["boxes"]["data"] == flat
    assert "id" not in response.json


@pytest.mark.parametrize(
    ("call", "status", "message"),
    [
        (lambda c: c.infer("other", [tensor(IMAGES)]), 404, "no model 'other'"),
        (lambda c: c.infer(MODEL, [tensor(IMAGES)], "9"), 404, "no version '9'"),
        (lambda c: c.get_model_metadata("other"), 404, "no model 'other'"),
        (lambda c: c.infer(MODEL, [tensor(IMAGES, name="x")]), 400, "named 'image', got 'x'"),
        (lambda c: c.infer(MODEL, [tensor(IMAGES)] * 2), 400, "expected one input"),
        (lambda c: c.infer(MODEL, [tensor(IMAGES, datatype="UINT8")]), 400, "datatype BYTES"),
        (lambda c: c.infer(MODEL, [tensor(IMAGES[:2] * 2, shape=[2, 2])]), 400, "shape [n]"),
        (
            lambda c: c.infer(
                MODEL, [tensor(IMAGES)], outputs=[triton.InferRequestedOutput("keypoints")]
            ),
            400,
            "no output 'keypoints'",
        ),
        (
            lambda c: c.infer(
                MODEL, [tensor(IMAGES)], outputs=[triton.InferRequestedOutput("boxes")] * 2
            ),
            400,
            "requested twice",
        ),
        (
            lambda c: c.infer(
                MODEL,
                [tensor(IMAGES)],
                outputs=[triton.InferRequestedOutput("scores", class_count=2)],
            ),
            400,
            "'classification' is not supported",
        ),
        (lambda c: c.infer(MODEL, [tensor(IMAGES)], sequence_id=3), 400, "'sequence_end' is not"),
        (lambda c: c.infer(MODEL, [tensor([b"x"])]), 422, "not an image"),
        (lambda c: c.infer(MODEL, [tensor([IMAGES[0], b""])]), 422, ""),
        (
            lambda c: c.infer(MODEL, [tensor(IMAGES)], request_compression_algorithm="gzip"),
            415,
            "Content-Encoding",
        ),
    ],
)
def test_refused(client: Any, call: Any, status: int, message: str) -> None:
    with pytest.raises(InferenceServerException) as raised:
        call(client)
    assert raised.value.status() == str(status)
    assert message in raised.value.message()


def test_hints_of_the_protocol_are_accepted(client: Any) -> None:
    assert client.infer(MODEL, [tensor(IMAGES)], priority=1, timeout=1000).as_numpy("counts").size


def test_not_ready_when_draining(served: Served, client: Any) -> None:
    served.service.is_draining = True
    try:
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready(MODEL)
    finally:
        served.service.is_draining = False


def test_a_model_that_is_not_stored_has_no_version() -> None:
    with serving("model=mask_rcnn", "runnable.masks=false") as served:
        metadata = served.get("/v2/models/mask_rcnn").json
        assert metadata["versions"] == []
        assert "masks" not in [output["name"] for output in metadata["outputs"]]
        assert served.get("/v2/models/mask_rcnn/versions/1").status == 404
