"""Requests of the Open Inference Protocol that are malformed: each is a sentence and status 400."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import numpy as np
import pytest

from runners.serve.errors import RequestError
from runners.serve.http.kserve.requests import read_request
from runners.serve.http.kserve.tensors import Tensor, write_response

OUTPUTS = ["boxes", "scores"]
B64 = base64.b64encode(b"abc").decode()


def element(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def request(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [B64]} | changes
    return {"inputs": [{key: value for key, value in tensor.items() if value is not None}]}


def binary(rest: bytes, size: Any = None, shape: list[int] | None = None) -> tuple[bytes, str]:
    parameters = {"binary_data_size": len(rest) if size is None else size}
    text = json.dumps(request(data=None, parameters=parameters, shape=shape or [1])).encode()
    return text + rest, str(len(text))


def refused(body: bytes, length: str | None = None) -> str:
    with pytest.raises(RequestError) as raised:
        read_request(body, length, OUTPUTS)
    assert raised.value.status == 400
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 300
    json.dumps({"error": message}, ensure_ascii=False).encode()  # as the response is encoded
    return message


def test_both_ways_to_send_images() -> None:
    body = json.dumps(request(data=[B64, B64], shape=[1, 2]) | {"id": "x"}).encode()
    wanted = read_request(body, None, OUTPUTS)
    assert (wanted.id, wanted.images, wanted.outputs) == ("x", [b"abc", b"abc"], None)
    assert wanted.binary == set()  # none
    nested = json.dumps(request(data=[[B64], [B64]], shape=[2, 1])).encode()
    assert read_request(nested, None, OUTPUTS).images == [b"abc", b"abc"]
    body, length = binary(element(b"a\0b") + element(b""), shape=[2])
    assert read_request(body, length, OUTPUTS).images == [b"a\0b", b""]


@pytest.mark.parametrize(
    ("outputs", "default", "names", "expected"),
    [
        ([], None, None, set()),
        ([], True, None, None),
        ([{"name": "scores"}], None, ["scores"], set()),
        ([{"name": "scores"}], True, ["scores"], {"scores"}),
        (
            [{"name": "scores", "parameters": {"binary_data": False}}, {"name": "boxes"}],
            True,
            ["scores", "boxes"],
            {"boxes"},
        ),
    ],
)
def test_which_outputs_are_binary(
    outputs: list[Any], default: bool | None, names: Any, expected: Any
) -> None:
    parameters = {} if default is None else {"binary_data_output": default}
    body = json.dumps(request() | {"outputs": outputs, "parameters": parameters}).encode()
    wanted = read_request(body, None, OUTPUTS)
    assert (wanted.outputs, wanted.binary) == (names, expected)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "1", '"x"', "{}", "\xff", "\0", '{"inputs": NaN}',
        "[" * 100_000, '{"inputs":' * 50_000, '{"inputs": []}', '{"inputs": {}}',
        '{"inputs": [null]}', '{"inputs": [{}]}', '{"inputs": [[]]}', "9" * 10_000,
        '{"id": 1, "inputs": []}', '{"id": "\\ud800", "inputs": []}',
        '{"inputs": [], "parameters": {"\\n": {}}}',
    ],
)  # fmt: skip
def test_what_is_no_request(text: str) -> None:
    refused(text.encode("latin-1"))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": None}, {"name": "other"}, {"name": 7}, {"name": "\n" * 1000},
        {"datatype": None}, {"datatype": "UINT8"}, {"datatype": ["BYTES"]},
        {"shape": None}, {"shape": []}, {"shape": [0]}, {"shape": [-1]}, {"shape": [2]},
        {"shape": [1.5]}, {"shape": ["1"]}, {"shape": [True]}, {"shape": [1 << 31]},
        {"shape": [1 << 400]}, {"shape": [(1 << 31) - 1]}, {"shape": [2, 2]}, {"shape": [1] * 9},
        {"shape": 1}, {"shape": {}},
        {"data": None}, {"data": []}, {"data": {}}, {"data": B64}, {"data": [1]}, {"data": [None]},
        {"data": [float("nan")]}, {"data": ["?"]}, {"data": ["é"]}, {"data": ["YWJ"]},
        {"data": [[[B64]]]}, {"data": [B64, B64]}, {"data": [{"b64": B64}]},
        {"data": "[" * 1000}, {"parameters": {"binary_data_size": 3}},
        {"parameters": {"shared_memory_region": "x"}}, {"parameters": {"x\ny": 1}},
        {"parameters": []}, {"parameters": {"binary_data_size": None}},
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_input(changes: dict[str, Any]) -> None:
    absent = dict.fromkeys(key for key, value in changes.items() if value is None)
    given = request(**{key: value for key, value in changes.items() if value is not None})
    for key in absent:
        del given["inputs"][0][key]
    refused(json.dumps(given).encode())


def test_inputs_that_are_not_one() -> None:
    tensor = request()["inputs"][0]
    for inputs in ([], [tensor, tensor], [tensor, tensor | {"name": "mask"}], [tensor] * 1000):
        assert "one input" in refused(json.dumps({"inputs": inputs}).encode())


@pytest.mark.parametrize(
    "more",
    [
        {"outputs": [{"name": "x"}]}, {"outputs": [{}]}, {"outputs": {}}, {"outputs": ["boxes"]},
        {"outputs": [{"name": "boxes"}, {"name": "boxes"}]},
        {"outputs": [{"name": "boxes", "parameters": {"binary_data": "yes"}}]},
        {"outputs": [{"name": "boxes", "parameters": {"binary_data": 1}}]},
        {"outputs": [{"name": "boxes", "parameters": {"classification": 2}}]},
        {"parameters": {"binary_data_output": "true"}}, {"parameters": {"sequence_id": 1}},
        {"parameters": {"x" * 10_000: 1}},
    ],
    ids=lambda more: str(more)[:60],
)  # fmt: skip
def test_wrong_outputs_and_parameters(more: dict[str, Any]) -> None:
    refused(json.dumps(request() | more).encode())


@pytest.mark.parametrize(
    ("rest", "size", "shape"),
    [
        (b"", None, [1]),
        (b"\1", None, [1]),
        (b"\1\0\0", None, [1]),
        (b"\xff\xff\xff\xff", None, [1]),
        (b"\xff\xff\xff\x7fabc", None, [1]),
        (b"\0\0\0\x80abc", None, [1]),
        (b"\4\0\0\0abc", None, [1]),
        (element(b"abc") + b"\0", None, [1]),
        (element(b"abc"), 3, [1]),
        (element(b"abc"), 8, [1]),
        (element(b"abc"), -7, [1]),
        (element(b"abc"), 1 << 62, [1]),
        (element(b"abc"), 1 << 200, [1]),
        (element(b"abc"), 7.0, [1]),
        (element(b"abc"), "7", [1]),
        (element(b"abc"), True, [1]),
        (element(b"abc"), None, [2]),
        (element(b"abc") * 3, None, [2]),
        (element(b"") * 1000, None, [1]),
    ],
)
def test_wrong_binary_data(rest: bytes, size: Any, shape: list[int]) -> None:
    refused(*binary(rest, size, shape))


@pytest.mark.parametrize(
    "length", ["", "-1", "x", "1.0", "1e3", " 5", "9" * 11, "9" * 5000, "0", "3", "\xb2", "1_0"]
)
def test_a_wrong_length_of_the_header(length: str) -> None:
    refused(binary(element(b"abc"))[0], length)


def test_binary_data_needs_the_header() -> None:
    body, _ = binary(element(b"abc"))
    text = body[: -len(element(b"abc"))]
    assert "Inference-Header-Content-Length" in refused(text)


def test_bytes_after_json_without_binary_inputs() -> None:
    text = json.dumps(request()).encode()
    assert "7 bytes follow" in refused(text + element(b"abc"), str(len(text)))


def test_a_response_in_both_forms() -> None:
    values = np.array([[0.1, np.nan], [np.inf, 3]], np.float32)
    tensors = [
        Tensor("a", "FP32", values.shape, values),
        Tensor("b", "INT64", (1,), np.array([7])),
        Tensor("c", "BYTES", (2,), [b"x", "é".encode()]),
        Tensor("d", "BYTES", (1,), [b"\xff"], is_text=False),
    ]
    body, length = write_response({"model_name": "m"}, tensors, set())
    assert length is None
    found = {one["name"]: one["data"] for one in json.loads(body)["outputs"]}
    assert found == {"a": [0.1, None, None, 3.0], "b": [7], "c": ["x", "é"], "d": ["/w=="]}
    body, length = write_response({}, tensors, None)
    sizes = [one["parameters"]["binary_data_size"] for one in json.loads(body[:length])["outputs"]]
    assert sizes == [16, 8, 5 + 6, 5]
    assert body[length:] == values.tobytes() + struct.pack("<q", 7) + (
        element(b"x") + element("é".encode()) + element(b"\xff")
    )
    body, length = write_response({}, tensors[:2], {"b"})
    assert body[length:] == struct.pack("<q", 7)
