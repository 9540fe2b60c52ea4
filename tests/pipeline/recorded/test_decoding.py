"""Lines of ``predictions.jsonl``, read back: the same results, encoded to the same bytes."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from journals import write_journal
from pycocotools import mask as coco_mask
from small_records import NAMES, SIZE, STRANGE, predictions, result

from pipeline.encoding import asset_prefix, encode, read_records
from pipeline.errors import OutputError
from pipeline.masks import InstanceMasks
from pipeline.recorded import RecordedFrame
from pipeline.recorded.decoding import decode
from pipeline.recorded.masks import RecordedMasks, edges_of
from pipeline.records import Categories, Predictions, Result, Segment

CATEGORIES = Categories(thing_names=NAMES, stuff_names=("sky", "road"))


def read_back(line: bytes, directory: Path = Path()) -> Result:
    found = decode(json.loads(line), CATEGORIES, directory)
    return Result(RecordedFrame.of(found, found.asset_id, None), found.predictions)


def random_masks(seed: int, n: int = 6, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Noise and blocks, so that masks have holes; the first is empty, the second full."""
    rng = np.random.default_rng(seed)
    masks = rng.random((n, *size)) < rng.random((n, 1, 1))
    masks[0], masks[1] = False, True
    return masks


EXTRAS: list[Any] = [
    np.float32([0.3, np.nan]),
    np.float64([1 / 3, 1e300]),
    np.array([3, 1 << 62]),
    np.array([True, False]),
    np.array(["a\0b", "caf\udce9"], object),
    np.float32([[1, 2.5], [3, np.inf]]),
    np.array([[1, 2], [3, 4]]),
    np.array([1 << 80, 2], object),
    np.array([1, 2.0], object),
    np.array([None, 7], object),
    np.array([[1, "x"], [2, "y"]], object),
]


@pytest.mark.parametrize("extra", EXTRAS, ids=repr)
def test_extra_columns_keep_their_text(extra: np.ndarray) -> None:
    line = encode(result(predictions(2, extra={"mine": extra})))
    again = read_back(line)
    assert encode(again) == line
    for i in (0, 1):
        one = encode(again.replace(again.predictions[i]))
        assert json.loads(one)["instances"] == [json.loads(line)["instances"][i]]


def test_everything_a_still_can_have(tmp_path: Path) -> None:
    masks = random_masks(1)
    p = predictions(
        6,
        masks=InstanceMasks.from_dense(masks),
        keypoints=np.float32(np.random.default_rng(0).normal(0, 9, (6, 3, 3))),
        track_ids=np.arange(6) * 7,
        sem_seg=np.arange(48).reshape(SIZE) % 2,
        panoptic_seg=np.arange(48).reshape(SIZE) * 70_000,
        segments=(
            Segment(1, 1, "cat", True, float(np.float32(0.3)), 5),
            Segment(70_000, 0, "sky", False, None, 9),
        ),
        stuff_names=CATEGORIES.stuff_names,
    )
    file = write_journal(tmp_path, [result(p)])
    again = read_back(file.read_bytes(), tmp_path)
    assert encode(again) == encode(result(p))
    found = again.predictions
    for name in ("boxes", "scores", "classes", "keypoints", "track_ids", "sem_seg", "panoptic_seg"):
        np.testing.assert_array_equal(getattr(found, name), getattr(p, name))
    assert (found.segments, found.class_names, found.stuff_names) == (
        p.segments, NAMES, CATEGORIES.stuff_names,
    )  # fmt: skip
    assert found.masks is not None
    np.testing.assert_array_equal(found.masks.dense(), masks)
    written = {f.name: f.read_bytes() for f in tmp_path.glob("*/*/*.png")}
    write_journal(tmp_path / "again", [again])
    assert {f.name: f.read_bytes() for f in tmp_path.glob("again/*/*/*.png")} == written
    assert len(written) == 1  # two, of the same name


def test_frames_of_a_video_and_strange_names() -> None:
    time = {"frame": 12, "pts": 1001, "time_base": Fraction(2, 60)}
    for each in (
        result(Predictions.empty(SIZE, NAMES), "v.mp4", **time),
        result(predictions(2), STRANGE),
        result(predictions(1), 'q"\\uo\u2028te.jpg', time_s=1 / 3),
    ):
        line = encode(each)
        again = read_back(line)
        assert encode(again) == line
        assert line.startswith(asset_prefix(each.frame.asset_id))
        assert again.frame.asset_id == each.frame.asset_id
        assert again.frame.size == SIZE
        assert not again.frame.image.any()


def test_numbers_are_the_same_float32() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 40_000, np.uint64).astype(np.uint32).view(np.float32)
    values = np.concatenate([bits, rng.random(40_000, np.float32), np.float32([-0.0, 0, 1e-45])])
    n = len(values)
    p = Predictions(SIZE, NAMES, np.zeros((n, 4)), values, np.zeros(n, int))
    again = read_back(encode(result(p))).predictions.scores
    np.testing.assert_array_equal(
        again.view(np.uint32), np.where(np.isfinite(values), values, np.nan).view(np.uint32)
    )


@pytest.mark.parametrize("seed", range(20))
def test_masks_are_decoded_as_by_pycocotools(seed: int) -> None:
    size = tuple(np.random.default_rng(seed).integers(1, 40, 2).tolist())
    masks = random_masks(seed, size=size)
    exact = InstanceMasks.from_dense(masks)
    recorded = RecordedMasks(size, exact.rle())
    for got, want in zip(recorded.edges, exact.edges, strict=True):
        np.testing.assert_array_equal(got, want)
    assert recorded.rle() == exact.rle()
    np.testing.assert_array_equal(recorded.area_px, exact.area_px)
    chosen = recorded[[4, 1]]
    assert isinstance(chosen, RecordedMasks)
    np.testing.assert_array_equal(chosen.dense(), masks[[4, 1]])
    np.testing.assert_array_equal(InstanceMasks.concatenate([chosen, exact]).dense()[2:], masks)
    assert (len(recorded), repr(recorded)) == (6, f"InstanceMasks(6 masks, size={size})")


def test_a_large_mask_is_decoded() -> None:
    mask = np.zeros((3000, 2000), bool)
    mask[7:2990, 3:1990] = True
    mask[100:200, 100:300] = False
    counts = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    np.testing.assert_array_equal(
        edges_of(counts, mask.shape), InstanceMasks.from_dense(mask[None]).edges[0]
    )


def test_selecting_and_encoding_decode_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    line = encode(result(predictions(6, masks=InstanceMasks.from_dense(random_masks(2)))))
    monkeypatch.setattr("pipeline.recorded.masks.edges_of", None)
    again = read_back(line)
    assert encode(again.at_least(0.5)) == line
    assert again.predictions[1].area_px.tolist() == [48.0]


@pytest.mark.parametrize("counts", ["", "o", "\x00", "0\xe9", "1", "ooooooooooooooo0", "h0", "O01"])
def test_a_damaged_mask_is_refused(counts: str) -> None:
    with pytest.raises(ValueError, match="damaged mask"):
        edges_of(counts, SIZE)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"instances": [{"box": [1, 2, 3], "score": 1, "class_id": 0}]}, "reshape"),
        ({"instances": [{"box": [1, 2, 3, 4], "score": 1, "class_id": 2}]}, "expected ids in 0..1"),
        ({"instances": [{"score": 1}, {"box": []}]}, "no 'score'"),
        ({"frame": 0, "time_base": [1, 0], "pts": 1}, "Fraction"),
        ({"width": "x"}, "expected a height and a width"),
        ({"sem_seg": "sem_seg/../../x.png"}, "not the name of a label map"),
        ({"sem_seg": "other/x.png"}, "not the name of a label map"),
        ({"sem_seg": "sem_seg/missing.png"}, "cannot read the label map .*no such file"),
    ],
)
def test_a_damaged_record_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    record = json.loads(encode(result(predictions(1)))) | change
    with pytest.raises(OutputError, match=says):
        decode(record, CATEGORIES, tmp_path)


def test_a_label_map_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    p = predictions(1, sem_seg=np.zeros(SIZE, int), panoptic_seg=np.zeros(SIZE, int))
    (record,) = read_records(write_journal(tmp_path, [result(p)]))
    gray, colors = record["sem_seg"], record["panoptic_seg"]["file"]
    swapped = record | {"sem_seg": colors, "panoptic_seg": record["panoptic_seg"] | {"file": gray}}
    with pytest.raises(OutputError, match="is damaged"):
        decode(swapped, CATEGORIES, tmp_path)
    (tmp_path / gray).write_bytes(b"")
    with pytest.raises(OutputError, match="is damaged"):
        decode(record, CATEGORIES, tmp_path)
