"""The page of a run: what it shows, in how many bytes, and from which images."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_run import StillImage, write_run

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.errors import ConfigError
from pipeline.masks import InstanceMasks
from pipeline.records import Categories, Frame, Predictions, Result, Segment
from pipeline.sinks.report import HtmlReport
from pipeline.sinks.report.outlines import Outlines
from pipeline.sinks.report.sample import Sample
from pipeline.sinks.report.timeline import Timeline
from pipeline.testing import make_predictions, make_result

CATEGORIES = Categories(thing_names=("cat", "dog", "bird"))
NAMES = CATEGORIES.thing_names


def results(*asset_ids: str, n: int = 3, masks: bool = False) -> list[Result]:
    return [
        make_result(n=n, asset_id=name, seed=i, class_names=NAMES, masks=masks)
        for i, name in enumerate(asset_ids)
    ]


def build(run: Path, images: Any = (), **options: Any) -> tuple[str, dict[str, Any]]:
    """Write the page; return it and its data."""
    HtmlReport(run, **options).build(run / PREDICTIONS, CATEGORIES, images)
    page = (run / "report.html").read_text(encoding="utf-8")
    return page, json.loads(block(page, "data"))


def block(page: str, name: str) -> str:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page)
    assert found
    return found[1]


def test_it_counts_all_results(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [*results("a.jpg", "x/b.jpg"), *results("c.jpg", n=0)])
    (run / "failures.jsonl").write_text(
        '{"asset": "d.jpg", "step": "decode", "error": "E", "message": "damaged", "attempts": 2}\n'
    )
    _, data = build(run)
    assert (data["n_frames"], data["n_images"], data["n_empty"]) == (3, 3, 1)
    assert data["counts"] == [[0, 1], [3, 2]]
    assert [[index, sum(bins)] for index, bins in data["scores"]] == [[0, 2], [1, 2], [2, 2]]
    assert [bins.index(2) for _, bins in data["scores"]] == [18, 10, 2]  # 0.9, 0.5, 0.1
    assert sum(sum(cells) for _, cells in data["places"]) == 6
    assert [image["id"] for image in data["images"]] == ["a.jpg", "x/b.jpg", "c.jpg"]
    assert data["failures"] == [["d.jpg", "decode", "E", "damaged", 2]]
    assert data["n_failures"] == 1


def test_equal_results_give_equal_data(tmp_path: Path) -> None:
    pages = []
    for name in ("a", "b"):
        made = results("a.jpg", "b.jpg", masks=True)
        run = write_run(tmp_path / name, made, command=name)
        pages.append(build(run, [StillImage(each.frame) for each in made])[0])
    assert block(pages[0], "data") == block(pages[1], "data")
    assert block(pages[0], "facts") != block(pages[1], "facts")


def test_the_policy_allows_this_script_and_nothing_else(tmp_path: Path) -> None:
    odd = "</script><img src=x onerror=alert(1)>&.jpg"
    page, data = build(write_run(tmp_path / "<b>run", results(odd)))
    assert data["images"][0]["id"] == odd
    assert "<img" not in page
    assert "<title>&lt;b&gt;run:" in page
    policy = re.search('http-equiv="Content-Security-Policy" content="(.*?)"', page)
    assert policy
    for tag, source in (("script type=.module.", "script-src"), ("style", "style-src")):
        content = re.search(rf"<{tag}>(.*?)</", page, re.DOTALL)
        assert content
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert f"{source} 'sha256-{digest}'" in html.unescape(policy[1])
    assert "default-src 'none'; img-src data:; " in html.unescape(policy[1])
    assert not re.search(r"^(import|export) ", page, re.MULTILINE)


def test_thumbnails_are_embedded(tmp_path: Path) -> None:
    made = results("a.jpg", "b.jpg")
    _, data = build(write_run(tmp_path / "run", made), [StillImage(made[1].frame)], thumbnail_px=32)
    assert data["images"][0]["src"] is None  # it could not be read
    kind, _, content = data["images"][1]["src"].partition(",")
    assert kind == "data:image/jpeg;base64"
    import cv2

    jpeg = np.frombuffer(base64.b64decode(content), np.uint8)
    assert cv2.imdecode(jpeg, cv2.IMREAD_COLOR).shape == (24, 32, 3)
    assert not (tmp_path / "run/report").exists()


def test_thumbnails_are_files(tmp_path: Path) -> None:
    made = results("a.jpg", "x/b #1.jpg")
    images = [StillImage(each.frame) for each in made]
    run = write_run(tmp_path / "run", made)
    page, data = build(run, images, embed=False, max_images=1)
    assert [image["src"] for image in data["images"]] == [
        "report/a.jpg.jpg",
        "report/x/b%20%231.jpg.jpg",
    ]
    assert (run / "report/x/b #1.jpg.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert "img-src data: &#x27;self&#x27;" in page
    build(run, images)  # embedded again: the files are out of date
    assert not (run / "report").exists()


def test_missing_images_are_reported(tmp_path: Path) -> None:
    def gone() -> Any:
        raise ConfigError("root: the images are not where they were")
        yield

    page, data = build(write_run(tmp_path / "run", results("a.jpg")), gone())
    assert len(data["images"]) == 1
    assert "not where they were" in json.loads(block(page, "facts"))["images_note"]


def test_of_many_images_a_sample_is_shown_and_the_others_are_listed(tmp_path: Path) -> None:
    names = [f"{n:03}.jpg" for n in range(40)]
    run = write_run(tmp_path / "run", [*results(*names), *results("empty.jpg", n=0)])
    _, data = build(run, max_images=10)
    shown, listed = ({each for each in found} for found in (
        [image["id"] for image in data["images"]], [row[0] for row in data["rows"]],
    ))  # fmt: skip
    assert len(shown) == 10
    assert "empty.jpg" in shown  # a stratum of its own
    assert shown | listed == {*names, "empty.jpg"}
    assert not shown & listed
    assert [i["id"] for i in build(run, max_images=10)[1]["images"]] == sorted(shown)
    assert {i["id"] for i in build(run, max_images=10, seed=1)[1]["images"]} != shown


def test_what_is_too_large_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sinks.report.report.MAX_BYTES", 1_025_000)
    made = results(*(f"{n}.jpg" for n in range(9)))
    page, data = build(write_run(tmp_path / "run", made), [StillImage(each.frame) for each in made])
    assert 0 < len(data["images"]) < 9
    assert len(data["images"]) + len(data["rows"]) == 9
    assert len(page) < 1_025_000


def test_sample_has_as_many_of_each_stratum_as_possible() -> None:
    sample = Sample(30, 0)
    for i in range(1000):
        name, score = ("rare", 0.5) if i % 200 == 0 else ("common", (i % 5) / 5)
        sample.add((f"{i}", 0), i, {"instances": [{"class_name": name, "score": score}]})
    chosen = sample.chosen()
    assert sorted(chosen.values()) == list(range(30))
    strata = Counter("rare" if i % 200 == 0 else i % 5 for i in chosen)
    assert strata.pop("rare") == 5  # all of them
    assert set(strata.values()) <= {5, 6, 7}


def test_masks_of_large_frames_are_reduced() -> None:
    bitmap = np.zeros((1, 3000, 2048), bool)
    bitmap[0, 300:900, 1024:2048] = True
    (rle,) = InstanceMasks.from_dense(bitmap).rle()
    small = Outlines(Path(), CATEGORIES).of_mask(dict(rle))
    assert small["size"] == [1024, 699]
    dense = InstanceMasks.from_rle([small], (1024, 699)).dense()[0]
    assert dense.mean() == pytest.approx(bitmap.mean(), rel=0.01)
    assert dense[103:306, 351:].all()
    tiny = np.zeros((1, 40, 30), bool)
    tiny[0, 3, 4] = True
    (rle,) = InstanceMasks.from_dense(tiny).rle()
    assert Outlines(Path(), CATEGORIES).of_mask(dict(rle)) == rle


def test_no_mask_of_a_large_frame_disappears() -> None:
    bitmap = np.zeros((1, 4096, 16), bool)
    bitmap[0, 4095, 15] = True
    (rle,) = InstanceMasks.from_dense(bitmap).rle()
    small = Outlines(Path(), CATEGORIES).of_mask(dict(rle))
    assert InstanceMasks.from_rle([small], (1024, 4)).dense()[0].sum() == 1


def test_stuff_is_shown_as_regions(tmp_path: Path) -> None:
    label_map = np.ones((48, 64), np.int32)
    label_map[:, 32:] = 2
    segments = (Segment(1, 1, "grass", False, None, 1536), Segment(2, 0, "cat", True, 0.9, 1536))
    p = make_predictions(
        1,
        class_names=NAMES,
        panoptic_seg=label_map,
        segments=segments,
        stuff_names=("sky", "grass"),
    )
    image = np.zeros((48, 64, 3), np.uint8)
    run = write_run(tmp_path / "run", [Result(Frame(image, "a.jpg"), p)])
    categories = Categories(thing_names=NAMES, stuff_names=("sky", "grass"))
    HtmlReport(run).build(run / PREDICTIONS, categories)
    data = json.loads(block((run / "report.html").read_text(), "data"))
    ((index, rle),) = data["images"][0]["regions"]
    assert data["stuff"][index - len(data["things"])] == "grass"
    assert (InstanceMasks.from_rle([rle], (48, 64)).dense()[0] == (label_map == 1)).all()
    assert data["frames_with"] == [[0, 1], [4, 1]]


def test_a_video_has_a_timeline_with_bounded_memory(tmp_path: Path) -> None:
    timeline = Timeline("v.mp4", None)
    for i in range(5000):
        instances = [{"class_id": i % 2, "track_id": i // 1000}] * (i % 3)
        timeline.add({"asset": "v.mp4", "frame": i, "time_s": i / 10, "instances": instances})
    made = timeline.as_json()
    assert 400 <= len(made["bins"]) <= 800
    assert sum(n for _, _, counts in made["bins"] for _, n in counts) == sum(
        i % 3 for i in range(5000)
    )
    assert [frame for frame, _, _ in made["bins"]] == list(range(0, 5000, made["per_bin"]))
    assert made["end"] == (4999, 499.9)
    assert made["tracks"][1][:4] == [1, 0, (1000, 100.0), (1999, 199.9)]

    p = Predictions.empty((48, 64), NAMES)
    frames = [Frame(np.zeros((48, 64, 3), np.uint8), "v.mp4", i) for i in range(3)]
    _, data = build(write_run(tmp_path / "run", [Result(frame, p) for frame in frames]))
    assert (data["n_images"], data["n_frames"], len(data["rows"])) == (0, 3, 0)
    assert data["videos"][0]["frames"] == 3


@pytest.mark.parametrize(
    "options", [{"embed": 1}, {"max_images": -1}, {"thumbnail_px": 0}, {"seed": "x"}]
)
def test_bad_options(tmp_path: Path, options: Any) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        HtmlReport(tmp_path, **options)
