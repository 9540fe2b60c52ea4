from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_records import STRANGE

from pipeline.errors import ConfigError, SinkError
from pipeline.masks import InstanceMasks
from pipeline.records import Categories, Frame, Result
from pipeline.sinks.crops import Crops, file_names
from pipeline.testing import make_predictions, make_result

SIZE = (40, 60)


def asset(asset_id: str, is_still: bool = True) -> Any:
    return SimpleNamespace(id=asset_id, path=Path(asset_id), is_still=is_still)


def write(sink: Crops, *results: Result, is_still: bool = True) -> set[str]:
    """Write assets of one frame each; return all files."""
    with sink:
        for result in results:
            sink.begin(asset(result.frame.asset_id, is_still))
            sink.write(result)
            sink.flush(asset(result.frame.asset_id, is_still))
        sink.sync()
    root = sink.directory
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_the_pixels(tmp_path: Path) -> None:
    result = make_result(boxes=[[3, 4, 13, 9], [9.5, 2.2, 20.1, 8]], size=SIZE)
    assert write(Crops(tmp_path / "crops", format="png"), result) == {
        "a.jpg/000_cat.png", "a.jpg/001_dog.png",
    }  # fmt: skip
    rgb = result.frame.image[..., ::-1]
    first, second = (
        np.asarray(Image.open(tmp_path / f"crops/a.jpg/{name}.png"))
        for name in ("000_cat", "001_dog")
    )
    np.testing.assert_array_equal(first, rgb[4:9, 3:13])
    np.testing.assert_array_equal(second, rgb[2:8, 9:21])  # whole pixels that the box touches


def test_margin_ends_at_the_frame(tmp_path: Path) -> None:
    result = make_result(boxes=[[0, 10, 20, 30]], size=SIZE)
    write(Crops(tmp_path / "crops", margin=0.25), result)
    with Image.open(tmp_path / "crops/a.jpg/000_cat.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (25, 30))


@pytest.mark.parametrize("format", ["jpg", "png"])
def test_masked(tmp_path: Path, format: str) -> None:
    dense = np.zeros((1, *SIZE), bool)
    dense[0, 10:30, 10:40] = True
    dense[0, 15:25, 20:30] = False  # a hole
    p = make_predictions(boxes=[[10, 10, 40, 30]], size=SIZE, masks=InstanceMasks.from_dense(dense))
    result = Result(Frame(np.full((*SIZE, 3), 200, np.uint8), "a.jpg"), p)
    sink = Crops(tmp_path / "crops", masked=True, margin=0.1, format=format, quality=100)  # type: ignore[arg-type]
    write(sink, result)
    image = np.asarray(Image.open(tmp_path / f"crops/a.jpg/000_cat.{format}")).astype(int)
    want = dense[0, 8:32, 7:43]
    if format == "png":
        np.testing.assert_array_equal(image[..., 3], want * 255)
        assert (image[..., :3] == 200).all()
    else:
        assert np.abs(image[want] - 200).mean() < 20
        assert image[12, 18].max() < 30  # in the hole
        assert image[0, 0].max() < 30


def test_masked_needs_masks(tmp_path: Path) -> None:
    sink = Crops(tmp_path / "crops", masked=True)
    with pytest.raises(SinkError, match=r"no masks; set sink\.crops\.masked=false"):
        write(sink, make_result(1))
    assert write(sink, make_result(0)) == set()


def test_what_has_no_image(tmp_path: Path) -> None:
    boxes = [[np.nan, 0, 9, 9], [70, 0, 90, 9], [5, 5, 5, 9], [0, 0, 3, 30], [0, 0, 30, 30]]
    result = make_result(boxes=boxes, scores=[0.9, 0.8, 0.7, 0.6, 0.5], size=SIZE)
    assert write(Crops(tmp_path / "one"), result) == {"a.jpg/003_cat.jpg", "a.jpg/004_dog.jpg"}
    assert write(Crops(tmp_path / "two", min_size_px=10), result) == {"a.jpg/004_dog.jpg"}
    assert write(Crops(tmp_path / "three", min_score=0.55), result) == {"a.jpg/003_cat.jpg"}


def test_names_stay_inside_and_apart(tmp_path: Path) -> None:
    names = ["../../etc", "a/b", "a_b", "a.b", "Cat", "cat", "犬 (big)", "..", "x" * 300, " "]
    named = file_names(names)
    assert named == [
        "______etc", "a_b~1", "a_b", "a_b~3", "Cat", "cat~5", "犬 (big)", "__", "x" * 48, "_",
    ]  # fmt: skip
    boxes = [[0, 0, 9, 9]] * len(names)
    for by_class in (False, True):
        root = tmp_path / str(by_class) / "run"
        sink = Crops(root / "crops", by_class=by_class)
        results = [
            make_result(boxes=boxes, class_names=names, asset_id=name, size=SIZE)
            for name in ("../x", STRANGE, "y" * 300)
        ]
        assert len(write(sink, *results)) == 3 * len(names)
        assert [path.name for path in root.parent.iterdir()] == ["run"]
        assert [path.name for path in root.iterdir()] == ["crops"]


def test_torchvision_reads_the_classes(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    sink = Crops(tmp_path / "crops", by_class=True)
    sink.check(Categories(("cat", "dog", "bird")))
    assert sink.outputs == ("crops/", "crops/cat/", "crops/dog/", "crops/bird/")
    boxes = [[0, 0, 9, 9], [9, 9, 20, 20]]
    write(
        sink,
        make_result(boxes=boxes, asset_id="a/x.jpg", size=SIZE),
        make_result(boxes=boxes[:1], asset_id="b.jpg", size=SIZE),
    )
    dataset = ImageFolder(str(tmp_path / "crops"))
    assert dataset.classes == ["cat", "dog"]
    assert sorted(target for _, target in dataset.samples) == [0, 0, 1]
    assert dataset[0][0].size == (9, 9)


@pytest.mark.parametrize("by_class", [False, True])
def test_discard_and_new_versions(tmp_path: Path, by_class: bool) -> None:
    def paths(n: int, name: str) -> Result:
        return make_result(boxes=[[0, 0, 9, 9]] * n, asset_id=name, size=SIZE)

    sink = Crops(tmp_path / "crops", by_class=by_class)
    sink.check(Categories(("cat", "dog", "bird")))
    write(sink, paths(3, "a.jpg"), paths(1, "b.jpg"))
    assert len(write(sink, paths(1, "a.jpg"))) == 2  # the image has changed
    assert len(write(sink, paths(2, "v.mp4"), is_still=False)) == 4
    sink.discard(asset("v.mp4", is_still=False))
    sink.discard(asset("b.jpg"))
    sink.discard(asset("never written"))
    left = [path for path in tmp_path.rglob("*.jpg") if path.is_file()]
    assert [path.name for path in left] == ["000.jpg" if by_class else "000_cat.jpg"]
    assert "a.jpg" in str(left[0])


def test_frames_of_a_video(tmp_path: Path) -> None:
    result = make_result(boxes=[[0, 0, 9, 9]], asset_id="v.mp4", index=12, size=SIZE)
    assert write(Crops(tmp_path / "one"), result, is_still=False) == {"v.mp4/000012_000_cat.jpg"}
    by_class = Crops(tmp_path / "two", by_class=True)
    assert write(by_class, result, is_still=False) == {"cat/v.mp4/000012_000.jpg"}


def test_an_image_that_is_too_large_for_jpeg(tmp_path: Path) -> None:
    frame = Frame(np.zeros((1, 70_000, 3), np.uint8), "wide.png")
    p = make_predictions(boxes=[[0, 0, 70_000, 1]], size=(1, 70_000))
    with pytest.raises(SinkError, match=r"70000 x 1 px .* sink\.crops\.format=png"):
        write(Crops(tmp_path / "crops"), Result(frame, p))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_score": 2}, "min_score: expected a number from 0 to 1, got 2"),
        ({"min_size_px": 0}, "min_size_px: expected a whole number of at least 1, got 0"),
        ({"margin": -0.1}, "margin: expected a number from 0 to 10, got -0.1"),
        ({"masked": "yes"}, "masked: expected true or false, got 'yes'"),
        ({"by_class": 1}, "by_class: expected true or false, got 1"),
        ({"format": "gif"}, "format: expected jpg or png, got 'gif'"),
        ({"quality": 0}, "quality: expected a whole number from 1 to 100, got 0"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Crops("anywhere", **options)
    assert str(caught.value) == message
