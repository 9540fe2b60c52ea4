from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from small_records import SIZE, STRANGE, predictions, result

from pipeline.encoding import encode
from pipeline.errors import SinkError
from pipeline.records import Result, Segment
from pipeline.sinks.label_maps import LabelMaps


def asset_of(asset_id: str, is_still: bool = True) -> Any:
    return SimpleNamespace(id=asset_id, path=Path(asset_id), is_still=is_still)


def written(directory: Path, each: Result, is_still: bool = True) -> dict[str, Any]:
    """Write a frame's maps; return its line, which names them."""
    with LabelMaps(directory) as sink:
        sink.begin(asset_of(each.frame.asset_id, is_still))
        sink.write(each)
        sink.flush(asset_of(each.frame.asset_id, is_still))
        sink.sync()
    line: dict[str, Any] = json.loads(encode(each, numbered=not is_still))
    return line


@pytest.mark.parametrize(
    ("high", "dtype"), [pytest.param(53, np.uint8, id="8"), pytest.param(300, np.uint16, id="16")]
)
def test_sem_seg(tmp_path: Path, high: int, dtype: Any) -> None:
    seg = np.arange(48, dtype=np.int32).reshape(SIZE)
    seg[0, 0] = high
    line = written(tmp_path, result(predictions(sem_seg=seg)))
    assert line["sem_seg"] == "sem_seg/a/b.jpg.png"
    back = cv2.imread(str(tmp_path / line["sem_seg"]), cv2.IMREAD_UNCHANGED)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, seg)


@pytest.mark.parametrize("bad", [-1, 70000])
def test_sem_seg_that_no_png_holds(tmp_path: Path, bad: int) -> None:
    p = predictions(sem_seg=np.full(SIZE, bad, np.int32))
    with LabelMaps(tmp_path) as sink, pytest.raises(SinkError, match="a PNG holds 0"):
        sink.write(result(p))


def test_panoptic_seg(tmp_path: Path) -> None:
    seg = np.zeros(SIZE, np.int32)
    seg[0, 0], seg[1, 1] = 7, 70000
    segments = (Segment(7, 0, "person", True, 0.98, 1), Segment(70000, 4, "sky", False, None, 1))
    p = predictions(panoptic_seg=seg, segments=segments)
    line = written(tmp_path, result(p, "v.mp4", 12), is_still=False)
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
    line = written(tmp_path, result(predictions(sem_seg=np.zeros(SIZE, np.int32)), STRANGE))
    assert (tmp_path / line["sem_seg"]).is_file()


@pytest.mark.parametrize("is_still", [True, False])
def test_discard_removes_all_maps_of_the_asset(tmp_path: Path, is_still: bool) -> None:
    p = predictions(sem_seg=np.zeros(SIZE, np.int32), panoptic_seg=np.zeros(SIZE, np.int32))
    written(tmp_path, result(p, "other"))
    for frame in range(1 if is_still else 3):
        written(tmp_path, result(p, "x", frame), is_still)
    with LabelMaps(tmp_path) as sink:
        sink.discard(asset_of("x", is_still))
        sink.sync()
    left = sorted(path.name for path in tmp_path.rglob("*.png"))
    assert left == ["other.png", "other.png"]
