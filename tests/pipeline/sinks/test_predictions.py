from __future__ import annotations

import base64
import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.errors import OutputError, SinkError
from pipeline.masks import InstanceMasks
from pipeline.records import Frame, Predictions, Result, Segment
from pipeline.sinks.predictions import PredictionsJsonl, records

SIZE = (8, 6)
NAMES = ("person", "cat")
STRANGE = "d/caf\udce9.jpg"  # what the name b"d/caf\xe9.jpg" becomes in Python


def predictions(n: int = 1, **columns: Any) -> Predictions:
    return Predictions(
        SIZE,
        NAMES,
        boxes=np.tile(np.float32([0.1, 1, 4.5, 7.25]), (n, 1)),
        scores=np.full(n, 0.98, np.float32),
        classes=np.arange(n) % 2,
        **columns,
    )


def result(p: Predictions, asset: str = "a/b.jpg", frame: int = 0, time_s: Any = None) -> Result:
    return Result(Frame(np.zeros((*SIZE, 3), np.uint8), asset, frame, time_s=time_s), p)


def still(asset_id: str, **more: Any) -> Any:
    return SimpleNamespace(id=asset_id, path=Path(asset_id), is_still=True, **more)


def written(directory: Path, *results: Result) -> list[dict[str, Any]]:
    with PredictionsJsonl(directory) as sink:
        for each in results:
            sink.write(each)
        for asset_id in dict.fromkeys(each.frame.asset_id for each in results):
            sink.flush(still(asset_id))
    return list(records(directory / "predictions.jsonl"))


def test_a_line_is_as_the_contract_says(tmp_path: Path) -> None:
    mask = np.zeros((1, *SIZE), bool)
    mask[0, 2:5, 1:3] = True
    p = predictions(
        masks=InstanceMasks.from_dense(mask),
        keypoints=np.float32([[[1.1, 2, 0.5], [3, 4, 0]]]),
        track_ids=np.array([3]),
        extra={"sharpness": np.float32([0.3])},
    )
    written(tmp_path, result(p))
    counts = coco_mask.encode(np.asfortranarray(mask[0]))["counts"].decode()
    assert (tmp_path / "predictions.jsonl").read_text() == (
        '{"asset": "a/b.jpg", "frame": 0, "time_s": null, "width": 6, "height": 8, "image_id": 1, '
        '"instances": [{"box": [0.1, 1.0, 4.5, 7.25], "score": 0.98, "class_id": 0, '
        f'"class_name": "person", "mask": {{"size": [8, 6], "counts": {json.dumps(counts)}}}, '
        '"keypoints": [[1.1, 2.0, 0.5], [3.0, 4.0, 0.0]], "track_id": 3, "sharpness": 0.3}]}\n'
    )


def test_absent_outputs_are_absent_keys(tmp_path: Path) -> None:
    (line,) = written(tmp_path, result(Predictions.empty(SIZE)))
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
def test_floats(tmp_path: Path, value: float, expected: float | None) -> None:
    p = predictions(2).replace(boxes=np.full((2, 4), value, np.float32))
    (line,) = written(tmp_path, result(p))
    assert [instance["box"] for instance in line["instances"]] == [[expected] * 4] * 2
    assert "NaN" not in (tmp_path / "predictions.jsonl").read_text()


def test_every_float32_reads_back(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random(500, np.float32)
    (line,) = written(tmp_path, result(predictions(500).replace(scores=scores)))
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
def test_extra_columns(tmp_path: Path, column: np.ndarray, expected: list[Any]) -> None:
    (line,) = written(tmp_path, result(predictions(2, extra={"mine": column})))
    assert [instance["mine"] for instance in line["instances"]] == expected


@pytest.mark.parametrize(
    ("name", "column", "says"),
    [
        pytest.param("score", np.zeros(1), "'score' has the name of a key", id="known key"),
        pytest.param("when", np.array([1j]), "array of numbers", id="complex"),
        pytest.param("what", np.array([object()]), "array of numbers", id="object"),
    ],
)
def test_bad_extra_columns(tmp_path: Path, name: str, column: np.ndarray, says: str) -> None:
    with PredictionsJsonl(tmp_path) as sink, pytest.raises(SinkError, match=says) as caught:
        sink.write(result(predictions(extra={name: column})))
    assert caught.value.asset_id == "a/b.jpg"


@pytest.mark.parametrize(
    ("asset_id", "asset", "raw"),
    [
        pytest.param("a b/ü猫.jpg", "a b/ü猫.jpg", None, id="UTF-8"),
        pytest.param('q"\n.jpg', 'q"\n.jpg', None, id="quote and newline"),
        pytest.param(STRANGE, "d/caf\\xe9.jpg", b"d/caf\xe9.jpg", id="not UTF-8"),
    ],
)
def test_names(tmp_path: Path, asset_id: str, asset: str, raw: bytes | None) -> None:
    (line,) = written(tmp_path, result(predictions(), asset_id))
    assert line["asset"] == asset
    assert list(line)[1] == ("frame" if raw is None else "asset_b64")
    assert raw is None or base64.b64decode(line["asset_b64"]) == raw


def test_image_ids_count_frames_in_the_order_of_flush(tmp_path: Path) -> None:
    with PredictionsJsonl(tmp_path) as sink:
        for asset, frame, time_s in (("v", 0, 0.0), ("x", 0, None), ("v", 1, 0.04)):
            sink.write(result(predictions(), asset, frame, time_s))
        for asset_id in ("x", "dropped", "v"):
            sink.flush(still(asset_id))
    lines = records(tmp_path / "predictions.jsonl")
    got = [(line["asset"], line["frame"], line["image_id"]) for line in lines]
    assert got == [("x", 0, 1), ("v", 0, 2), ("v", 1, 3)]


def test_image_ids_of_a_source_are_kept(tmp_path: Path) -> None:
    with PredictionsJsonl(tmp_path) as sink:
        sink.write(result(predictions(), "x"))
        sink.flush(still("x", image_id=4711))
    assert [line["image_id"] for line in records(tmp_path / "predictions.jsonl")] == [4711]


def test_nothing_is_visible_before_flush_nor_after_discard(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    p = predictions(sem_seg=np.zeros(SIZE, np.int32))
    file.write_text("old\n")
    with PredictionsJsonl(tmp_path) as sink:
        sink.write(result(p, "x"))
        assert file.read_bytes() == b""
        sink.discard(still("x"))
        sink.flush(still("x"))
        assert file.read_bytes() == b""
    assert [path for path in tmp_path.rglob("*.png")] == []


def test_the_asset_flushed_last_can_be_discarded(tmp_path: Path) -> None:
    p = predictions(sem_seg=np.zeros(SIZE, np.int32))
    assets = [still(name) for name in "xyz"]
    with PredictionsJsonl(tmp_path) as sink:
        for asset in assets:
            sink.write(result(p, asset.id))
            sink.flush(asset)
            if asset.id == "y":
                sink.discard(asset)
                sink.discard(asset)
        sink.discard(still("z"))  # another attempt: its lines stay, its maps go

    lines = list(records(tmp_path / "predictions.jsonl"))
    assert [(line["asset"], line["image_id"]) for line in lines] == [("x", 1), ("z", 2)]
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["x.png"]


class FullDisk:
    """Takes some bytes of a write, then has no room."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self.file.write(data[: self.room])
        self.room -= count
        return count


@pytest.mark.parametrize("room", [0, 1, 60])
def test_a_full_disk_leaves_whole_assets(tmp_path: Path, room: int) -> None:
    file = tmp_path / "predictions.jsonl"
    x, y = still("x"), still("y")
    with PredictionsJsonl(tmp_path) as sink:
        sink.write(result(predictions(), "x"))
        sink.flush(x)
        whole, real = file.read_bytes(), sink._file
        sink._file = FullDisk(real, room)  # type: ignore[assignment]
        sink.write(result(predictions(), "y"))
        with pytest.raises(OSError, match="No space"):
            sink.flush(y)
        sink.discard(y)
        assert file.read_bytes() == whole
        sink._file = real
        sink.write(result(predictions(), "y"))
        sink.flush(y)
    assert [line["image_id"] for line in records(file)] == [1, 2]


@pytest.mark.parametrize(
    ("high", "dtype"), [pytest.param(53, np.uint8, id="8"), pytest.param(300, np.uint16, id="16")]
)
def test_sem_seg(tmp_path: Path, high: int, dtype: Any) -> None:
    seg = np.arange(48, dtype=np.int32).reshape(SIZE)
    seg[0, 0] = high
    (line,) = written(tmp_path, result(predictions(sem_seg=seg)))
    assert line["sem_seg"] == "sem_seg/a/b.jpg.png"
    back = cv2.imread(str(tmp_path / line["sem_seg"]), cv2.IMREAD_UNCHANGED)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, seg)


@pytest.mark.parametrize("bad", [-1, 70000])
def test_sem_seg_that_no_png_holds(tmp_path: Path, bad: int) -> None:
    p = predictions(sem_seg=np.full(SIZE, bad, np.int32))
    with PredictionsJsonl(tmp_path) as sink, pytest.raises(SinkError, match="a PNG holds 0"):
        sink.write(result(p))


def test_panoptic_seg(tmp_path: Path) -> None:
    seg = np.zeros(SIZE, np.int32)
    seg[0, 0], seg[1, 1] = 7, 70000
    segments = (Segment(7, 0, "person", True, 0.98, 1), Segment(70000, 4, "sky", False, None, 1))
    (line,) = written(
        tmp_path, result(predictions(panoptic_seg=seg, segments=segments), "v.mp4", 12, 0.5)
    )
    panoptic = line["panoptic_seg"]
    assert panoptic["file"] == "panoptic/v.mp4/000012.png"
    assert [list(segment.items()) for segment in panoptic["segments"]] == [
        [("id", 7), ("class_id", 0), ("class_name", "person"), ("is_thing", True),
         ("score", 0.98), ("area", 1)],
        [("id", 70000), ("class_id", 4), ("class_name", "sky"), ("is_thing", False), ("area", 1)],
    ]  # fmt: skip
    blue, green, red = cv2.split(cv2.imread(str(tmp_path / panoptic["file"])).astype(int))
    np.testing.assert_array_equal(red + 256 * green + 65536 * blue, seg)


def test_the_line_names_the_label_map_of_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    (line,) = written(tmp_path, result(predictions(sem_seg=np.zeros(SIZE, np.int32)), STRANGE))
    assert (tmp_path / line["sem_seg"]).is_file()


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        written(tmp_path / name, *(result(predictions(3), f"{i}.jpg") for i in range(5)))
    first, second = ((tmp_path / name / "predictions.jsonl").read_bytes() for name in "ab")
    assert first == second


def test_a_torn_line_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    file.write_text('{"asset": "x"}\n{"asset": "y", "fra')
    with pytest.raises(OutputError, match="line 2 is not whole"):
        list(records(file))


def test_flush_needs_with(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="enter the sink"):
        PredictionsJsonl(tmp_path).flush(still("x"))
