from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from journals import write_journal
from PIL import Image
from small_records import STRANGE

from pipeline.errors import ConfigError, OutputError, SinkError
from pipeline.masks import InstanceMasks
from pipeline.records import Categories, Result
from pipeline.sinks.masks import Masks
from pipeline.testing import make_result

SIZE = (8, 10)
KINDS = ["instance", "semantic", "panoptic"]
CATEGORIES = Categories(("cat", "dog"), (17, 18))


def asset(asset_id: str, is_still: bool = True) -> Any:
    return SimpleNamespace(id=asset_id, path=Path(asset_id), is_still=is_still)


def overlapping(asset_id: str = "a/x.jpg", scores: Any = (0.5, 0.9, 0.5), index: int = 0) -> Result:
    """A ring, a dog on top of its left side, and a cat under both that only shows in the hole."""
    dense = np.zeros((3, *SIZE), bool)
    dense[0, 1:7, 1:9] = True
    dense[0, 3:5, 3:7] = False  # a hole
    dense[1, 0:4, 0:3] = True
    dense[2, 2:6, 2:8] = True
    return make_result(
        scores=list(scores), classes=[0, 1, 0], class_names=["cat", "dog"], size=SIZE,
        masks=InstanceMasks.from_dense(dense), asset_id=asset_id, index=index,
    )  # fmt: skip


def write(sink: Masks, *results: Result, is_still: bool = True) -> None:
    with sink:
        for result in results:
            sink.begin(asset(result.frame.asset_id, is_still))
            sink.write(result)
            sink.flush(asset(result.frame.asset_id, is_still))
        sink.sync()


def expected(result: Result) -> np.ndarray:
    """Positions plus 1, painted as the documentation says."""
    dense = result.predictions.masks.dense()  # type: ignore[union-attr]
    canvas = np.zeros(SIZE, int)
    for i in (2, 0, 1):  # the lowest score first; of equal scores, the last first
        canvas[dense[i]] = i + 1
    return canvas


def test_instances(tmp_path: Path) -> None:
    write(Masks(tmp_path / "masks"), overlapping())
    image = Image.open(tmp_path / "masks/instance/a/x.jpg.png")
    assert image.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(image), expected(overlapping()))
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["instance"]


def test_classes(tmp_path: Path) -> None:
    write(Masks(tmp_path / "masks", "semantic"), overlapping())
    image = Image.open(tmp_path / "masks/semantic/a/x.jpg.png")
    assert image.mode == "L"
    want = np.array([0, 1, 2, 1])[expected(overlapping())]  # class id + 1
    np.testing.assert_array_equal(np.asarray(image), want)


def test_many_classes_need_16_bits(tmp_path: Path) -> None:
    result = make_result(
        boxes=[[0, 0, 4, 4]], classes=[299], class_names=[str(i) for i in range(300)], masks=True
    )
    write(Masks(tmp_path / "masks", ["semantic"]), result)
    image = np.asarray(Image.open(tmp_path / "masks/semantic/a.jpg.png"))
    assert (image.dtype, image[0, 0], image[9, 9]) == (np.uint16, 300, 0)


def test_panoptic(tmp_path: Path) -> None:
    results = [overlapping(), make_result(0, asset_id="none.jpg", size=SIZE)]
    sink = Masks(tmp_path / "masks", KINDS)
    write(sink, *results)
    sink.build(write_journal(tmp_path, results), CATEGORIES)
    dataset = json.loads((tmp_path / "masks/panoptic.json").read_text("ascii"))
    assert [image["file_name"] for image in dataset["images"]] == ["a/x.jpg", "none.jpg"]
    assert dataset["categories"] == [
        {"id": 17, "name": "cat", "isthing": 1}, {"id": 18, "name": "dog", "isthing": 1},
    ]  # fmt: skip
    first, second = dataset["annotations"]
    rgb = np.asarray(Image.open(tmp_path / "masks/panoptic" / first["file_name"])).astype(int)
    ids = rgb @ [1, 256, 65536]  # panopticapi's rgb2id
    np.testing.assert_array_equal(ids, expected(results[0]))
    assert [(s["id"], s["category_id"], s["score"]) for s in first["segments_info"]] == [
        (1, 17, 0.5), (2, 18, 0.9), (3, 17, 0.5),
    ]  # fmt: skip
    for segment in first["segments_info"]:
        rows, columns = np.nonzero(ids == segment["id"])
        x, y, width, height = segment["bbox"]
        assert segment["area"] == len(rows)
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())
    assert second["segments_info"] == []
    assert not np.asarray(Image.open(tmp_path / "masks/panoptic" / second["file_name"])).any()


def test_a_hidden_instance_is_no_segment(tmp_path: Path) -> None:
    result = make_result(boxes=[[0, 0, 4, 4]] * 2, scores=[0.2, 0.9], masks=True)
    sink = Masks(tmp_path / "masks", "panoptic")
    write(sink, result)
    sink.build(write_journal(tmp_path, [result]), Categories(("cat", "dog", "bird")))
    dataset = json.loads((tmp_path / "masks/panoptic.json").read_text())
    assert [segment["id"] for segment in dataset["annotations"][0]["segments_info"]] == [2]


def test_ids_are_positions_whatever_min_score_drops(tmp_path: Path) -> None:
    result = overlapping(scores=(0.2, np.nan, 0.5))
    write(Masks(tmp_path / "masks", min_score=0.5), result)
    image = np.asarray(Image.open(tmp_path / "masks/instance/a/x.jpg.png"))
    np.testing.assert_array_equal(image, 3 * result.predictions.masks.dense()[2])  # type: ignore[union-attr]


def test_videos_and_odd_names(tmp_path: Path) -> None:
    frames = [overlapping("v.mp4", index=i) for i in (3, 4)]
    sink = Masks(tmp_path / "masks", ["instance", "panoptic"])
    write(sink, *frames, is_still=False)
    write(sink, overlapping(STRANGE), overlapping("../../x"))
    files = {path.relative_to(tmp_path / "masks").as_posix() for path in tmp_path.rglob("*.png")}
    assert {name for name in files if name.startswith("instance/v")} == {
        "instance/v.mp4/000003.png", "instance/v.mp4/000004.png",
    }  # fmt: skip
    assert "instance/__/__/x.png" in files
    assert not any((folder / "x.png").exists() for folder in tmp_path.parents)
    results = [*frames, overlapping(STRANGE), overlapping("../../x")]
    sink.build(write_journal(tmp_path, results), CATEGORIES)
    dataset = json.loads((tmp_path / "masks/panoptic.json").read_text())
    assert all(
        (tmp_path / "masks/panoptic" / each["file_name"]).is_file()
        for each in dataset["annotations"]
    )


def test_discard(tmp_path: Path) -> None:
    sink = Masks(tmp_path / "masks", KINDS)
    write(sink, overlapping("kept"), overlapping("gone"))
    write(sink, overlapping("v.mp4"), is_still=False)
    sink.discard(asset("gone"))
    sink.discard(asset("v.mp4", is_still=False))
    sink.discard(asset("never written"))
    assert {path.name for path in tmp_path.rglob("*.png")} == {"kept.png"}


def test_without_masks(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="returns no masks; remove sink=masks") as caught:
        write(Masks(tmp_path / "masks"), make_result(1))
    assert caught.value.asset_id == "a.jpg"
    write(Masks(tmp_path / "masks"), make_result(0))
    assert not np.asarray(Image.open(tmp_path / "masks/instance/a.jpg.png")).any()


def test_a_kind_that_an_earlier_run_did_not_write(tmp_path: Path) -> None:
    journal = write_journal(tmp_path, [overlapping()])
    write(Masks(tmp_path / "masks"), overlapping())
    with pytest.raises(OutputError, match=r"is missing.*runner\.on_change=restart"):
        Masks(tmp_path / "masks", "panoptic").build(journal, CATEGORIES)
    Masks(tmp_path / "masks").build(journal, CATEGORIES)
    assert not (tmp_path / "masks/panoptic.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": []}, "kind: expected one or more of instance, semantic, panoptic, got []"),
        ({"kind": "things"}, "kind: expected one or more of .*, got 'things'"),
        ({"kind": ["instance", "x"]}, r"kind: expected .*, got \['instance', 'x'\]"),
        ({"min_score": 1.5}, "min_score: expected a number from 0 to 1, got 1.5"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("got []", r"got \[\]")):
        Masks("anywhere", **options)
