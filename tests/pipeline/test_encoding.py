"""One line of ``predictions.jsonl`` per frame: to bytes and back."""

from __future__ import annotations

import base64
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from small_records import SIZE, STRANGE, predictions, result

from pipeline.encoding import encode, read_records, renumbered
from pipeline.errors import OutputError, SinkError
from pipeline.masks import InstanceMasks
from pipeline.records import Predictions


def encoded(*args: Any, **options: Any) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(encode(result(*args, **options)))
    return line


def test_a_line_is_as_the_contract_says() -> None:
    mask = np.zeros((1, *SIZE), bool)
    mask[0, 2:5, 1:3] = True
    p = predictions(
        masks=InstanceMasks.from_dense(mask),
        keypoints=np.float32([[[1.1, 2, 0.5], [3, 4, 0]]]),
        track_ids=np.array([3]),
        extra={"sharpness": np.float32([0.3])},
    )
    counts = coco_mask.encode(np.asfortranarray(mask[0]))["counts"].decode()
    assert encode(result(p)).decode() == (
        '{"asset": "a/b.jpg", "frame": 0, "time_s": null, "width": 6, "height": 8, "image_id": 0, '
        '"instances": [{"box": [0.1, 1.0, 4.5, 7.25], "score": 0.98, "class_id": 0, '
        f'"class_name": "person", "mask": {{"size": [8, 6], "counts": {json.dumps(counts)}}}, '
        '"keypoints": [[1.1, 2.0, 0.5], [3.0, 4.0, 0.0]], "track_id": 3, "sharpness": 0.3}]}\n'
    )


def test_a_frame_of_a_video_has_its_time() -> None:
    frame = {"frame": 12, "pts": 1001, "time_base": Fraction(2, 60)}
    line = encoded(Predictions.empty(SIZE), "v.mp4", **frame)
    assert list(line)[:6] == ["asset", "frame", "time_s", "pts", "time_base", "width"]
    assert (line["time_s"], line["pts"], line["time_base"]) == (1001 / 30, 1001, [1, 30])


def test_absent_outputs_are_absent_keys() -> None:
    line = encoded(Predictions.empty(SIZE))
    assert list(line) == ["asset", "frame", "time_s", "width", "height", "image_id", "instances"]
    assert line["instances"] == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(np.nan, None, id="NaN"),
        pytest.param(np.inf, None, id="infinity"),
        pytest.param(1 / 3, 0.33333334, id="shortest"),
        pytest.param(1e-20, 1e-20, id="tiny"),
        pytest.param(16777216, 16777216.0, id="integral"),
    ],
)
def test_floats(value: float, expected: float | None) -> None:
    p = predictions(2).replace(boxes=np.full((2, 4), value, np.float32))
    line = encoded(p)
    assert [instance["box"] for instance in line["instances"]] == [[expected] * 4] * 2
    assert "NaN" not in encode(result(p)).decode()


def test_every_float32_reads_back() -> None:
    scores = np.random.default_rng(0).random(500, np.float32)
    line = encoded(predictions(500).replace(scores=scores))
    back = np.array([instance["score"] for instance in line["instances"]], np.float32)
    np.testing.assert_array_equal(back, scores)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        pytest.param(np.array([True, False]), [True, False], id="bool"),
        pytest.param(np.array([2**40, -1]), [2**40, -1], id="int"),
        pytest.param(np.array(["a", "ü"]), ["a", "ü"], id="text"),
        pytest.param(np.array(["a", "\udcff"]), ["a", "\udcff"], id="not Unicode"),
        pytest.param(np.array([0.1, np.nan]), [0.1, None], id="float64"),
        pytest.param(np.float32([[0.1, 2], [3, 4]]), [[0.1, 2.0], [3.0, 4.0]], id="vectors"),
        pytest.param(np.zeros((2, 0), np.float32), [[], []], id="empty vectors"),
    ],
)
def test_extra_columns(column: np.ndarray, expected: list[Any]) -> None:
    line = encoded(predictions(2, extra={"mine": column}))
    assert [instance["mine"] for instance in line["instances"]] == expected


@pytest.mark.parametrize(
    ("name", "column", "says"),
    [
        pytest.param("score", np.zeros(1), "'score' has the name of a key", id="known key"),
        pytest.param("when", np.array([1j]), "array of numbers", id="complex"),
        pytest.param("what", np.array([object()]), "array of numbers", id="object"),
    ],
)
def test_bad_extra_columns(name: str, column: np.ndarray, says: str) -> None:
    with pytest.raises(SinkError, match=says) as caught:
        encode(result(predictions(extra={name: column})))
    assert (caught.value.asset_id, caught.value.step) == ("a/b.jpg", "predictions")


@pytest.mark.parametrize(
    ("asset_id", "asset", "raw"),
    [
        pytest.param("a b/ü猫.jpg", "a b/ü猫.jpg", None, id="UTF-8"),
        pytest.param('q"\n.jpg', 'q"\n.jpg', None, id="quote and newline"),
        pytest.param(STRANGE, "d/caf\\xe9.jpg", b"d/caf\xe9.jpg", id="not UTF-8"),
    ],
)
def test_names(asset_id: str, asset: str, raw: bytes | None) -> None:
    line = encoded(predictions(), asset_id)
    assert line["asset"] == asset
    assert list(line)[1] == ("frame" if raw is None else "asset_b64")
    assert raw is None or base64.b64decode(line["asset_b64"]) == raw


def test_image_ids_are_counted_on() -> None:
    tricky = 'x, "image_id": 7, "instances": .jpg'
    lines = [encode(result(predictions(), asset)) for asset in ("a", tricky, "b")]
    found = [json.loads(line) for line in renumbered(lines, 4711)]
    assert [line["image_id"] for line in found] == [4711, 4712, 4713]
    assert found[1]["asset"] == tricky


def test_a_line_without_an_image_id_is_an_error() -> None:
    with pytest.raises(OutputError, match="has no image_id"):
        list(renumbered([b'{"asset": "x"}\n'], 1))


def test_equal_results_give_equal_bytes() -> None:
    assert encode(result(predictions(3))) == encode(result(predictions(3)))


def test_a_torn_line_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    file.write_text('{"asset": "x"}\n{"asset": "y", "fra')
    with pytest.raises(OutputError, match="line 2 is incomplete"):
        list(read_records(file))
