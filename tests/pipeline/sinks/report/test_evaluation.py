"""The evaluation on the page of a run, and the images with the most errors."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import is_painted, launched, opened
from finished_run import StillImage, write_run

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.errors import OutputError
from pipeline.records import Categories
from pipeline.sinks.report import HtmlReport, show_evaluation
from pipeline.sinks.report.html import read_page
from pipeline.system.files import sha256_file
from pipeline.testing import make_result

NAMES = ("circle", "square")
CATEGORIES = Categories(thing_names=NAMES)
ODD = os.fsdecode(b"odd \xff<b>.jpg")
IDS = (*(f"{i}.jpg" for i in range(8)), ODD)


def rate(value: float) -> dict[str, float]:
    return {"precision": value, "recall": value, "f1": value}


def write_evaluation(run: Path, *worst: str, **changes: Any) -> None:
    """Write the evaluation of a run, as ``runner=evaluate`` does."""
    numbers = {"AP": 0.5, "AP50": 0.75, "AP75": 0.25, "APs": None, "APm": 0.5, "APl": 0.5}
    numbers["AR100"] = 0.6
    curve = [[i / 20, 0.5, 0.5, 0.5] for i in range(20)]
    classes = {
        name: {"instances": 3, "threshold": 0.8, **rate(0.5), "unfiltered": rate(0.5),
               "curve": curve}
        for name in NAMES
    }  # fmt: skip
    one = {"threshold": 0.6, **rate(0.5), "unfiltered": rate(0.4), "curve": curve}
    content = {
        "engine": "hotcoco 1.3", "predictions_sha256": sha256_file(run / PREDICTIONS),
        "ground_truth": {"name": "truth.json", "sha256": "0"}, "matched_by": "file name",
        "images": {"evaluated": 9}, "warnings": ["<i>careful"], "classes": list(NAMES),
        "instances": 6, "detections": 24,
        "box": {**numbers, "classes": {name: {"AP": 0.5} for name in NAMES}},
        "f1": {"of": "box", "iou": 0.5, "together": rate(0.55), "one": one, "classes": classes},
        "confusion": {"classes": [*NAMES, None], "matrix": [[3, 1, 0], [0, 2, 1], [2, 0, 0]]},
        "calibration": {"ece": 0.1, "bins": [[0.9, 5, 0.95, 0.8]], "classes": {}},
        "tide": {"wrong class": {"ap": 0.1, "count": 2}, "all": {"ap": 0.2, "count": None}},
        "positions": {"top left": {"instances": 6, "AP50": 0.5, **rate(0.5)}},
        "worst_images": [
            {"asset": name, "frame": 0, "image_id": i, "errors": 9 - i, "reasons": ["1 <b>missed"]}
            for i, name in enumerate(worst)
        ],
        "metric": {"name": "box.AP", "value": 0.5},
    }  # fmt: skip
    text = json.dumps({**content, **changes})
    (run / "evaluation.json").write_text(text)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    results = [make_result(n=3, asset_id=name, class_names=NAMES) for name in IDS]
    return write_run(tmp_path / "run", results)


def images() -> list[StillImage]:
    return [StillImage(make_result(asset_id=name, class_names=NAMES).frame) for name in IDS]


def build(run: Path, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    HtmlReport(run, **options).build(run / PREDICTIONS, CATEGORIES, images())
    return read_page(run / "report.html")


def shown(data: dict[str, Any]) -> dict[str, bool]:
    return {image["id"]: bool(image["src"]) for image in data["images"]}


def test_the_worst_images_are_shown_first(run: Path) -> None:
    sample = list(shown(build(run, max_images=2)[0]))
    worst = [name for name in IDS if name not in sample][-2:]
    write_evaluation(run, *worst)
    data, facts = build(run, max_images=2)
    assert len(shown(data)) == 2
    assert facts["evaluation"]["worst_images"][1]["asset"] == r"odd \xff<b>.jpg"
    assert {each["asset"] for each in facts["evaluation"]["worst_images"]} == set(shown(data))


def test_an_evaluation_is_added_to_the_page(run: Path) -> None:
    before, facts = build(run, max_images=2)
    assert facts["evaluation"] is None
    missing = [name for name in IDS[:8] if name not in shown(before)][:1]
    write_evaluation(run, *missing, ODD, *list(shown(before))[:1])
    show_evaluation(run, CATEGORIES, iter(images()))
    data, facts = read_page(run / "report.html")
    assert len(shown(data)) == 2 + len({*missing, r"odd \xff<b>.jpg"} - set(shown(before)))
    assert all(shown(data).values())
    order = [each["id"] for each in data["images"]]
    assert order == sorted(order)  # that of the run
    assert {row[0] for row in data["rows"]}.isdisjoint(order)
    assert facts["evaluation"]["confused"][0] == [2, None, "circle"]
    assert "curve" not in facts["evaluation"]["f1"]["classes"]["circle"]
    again = {key: value for key, value in data.items() if key not in ("images", "rows")}
    assert again == {key: value for key, value in before.items() if key not in ("images", "rows")}


def test_the_images_of_the_page_are_kept_when_they_are_gone(run: Path) -> None:
    before, _ = build(run)
    write_evaluation(run, "3.jpg")
    show_evaluation(run, CATEGORIES, [])
    data, facts = read_page(run / "report.html")
    assert data == before
    assert facts["evaluation"]["metric"]["value"] == 0.5


def test_the_evaluation_of_other_results_is_not_shown(run: Path) -> None:
    write_evaluation(run, "3.jpg", predictions_sha256="0" * 64)
    assert build(run)[1]["evaluation"] is None
    (run / "evaluation.json").write_text("half")
    assert build(run)[1]["evaluation"] is None


def test_what_does_not_fit_is_not_added(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each = len(json.dumps(build(run)[0]["images"][0]))
    assert shown(build(run, max_images=0)[0]) == {}
    write_evaluation(run, "3.jpg", "4.jpg")
    size = (run / "report.html").stat().st_size
    monkeypatch.setattr("pipeline.sinks.report.report.MAX_BYTES", size + 1.5 * each)
    show_evaluation(run, CATEGORIES, images())
    assert len(shown(read_page(run / "report.html")[0])) == 1


def test_a_file_that_is_no_page(run: Path) -> None:
    (run / "report.html").write_text("mine")
    write_evaluation(run)
    with pytest.raises(OutputError, match=r"report\.html cannot be read; write it again with"):
        show_evaluation(run, CATEGORIES, images())
    assert (run / "report.html").read_text() == "mine"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.mark.browser
def test_in_a_browser(browser: Any, run: Path) -> None:
    write_evaluation(run, "4.jpg", ODD, "gone.jpg")
    build(run)
    with opened(browser, (run / "report.html").as_uri()) as page:
        tables = page.locator("#evaluation h3").all_text_contents()
        assert tables[:3] == [
            "COCO's numbers, in percent", "Classes, by box, at the score with the best F1",
            "Errors (TIDE)",
        ]  # fmt: skip
        row = page.locator("#evaluation table").nth(1).locator("tbody tr").last
        assert row.locator("td").all_text_contents() == [
            "all", "6", "50.00", "", "55.00", "55.00", "55.00",
        ]  # fmt: skip
        cards = page.locator("#evaluation .card")
        assert cards.count() == 3
        assert cards.nth(1).locator("small").text_content() == "8 errors: 1 <b>missed"
        cards.nth(0).focus()
        page.keyboard.press("Enter")
        title = page.locator("#viewer-title")
        assert title.text_content() == "4.jpg (1 of 2)"
        assert is_painted(page, "#stage canvas")
        assert page.locator("#panel tbody tr").count() == 1  # the others are below 0.8
        page.keyboard.press("ArrowRight")
        assert title.text_content() == r"odd \xff<b>.jpg (2 of 2)"
        page.keyboard.press("Escape")
        for width in (360, 2560):
            page.set_viewport_size({"width": width, "height": 800})
            assert not page.evaluate("document.documentElement.scrollWidth > window.innerWidth")


@pytest.mark.browser
def test_a_panoptic_evaluation(browser: Any, run: Path) -> None:
    write_evaluation(run)
    content = json.loads((run / "evaluation.json").read_text())
    kept = ("engine", "predictions_sha256", "ground_truth", "matched_by", "images", "warnings")
    pq = {"PQ": 0.25, "SQ": 0.5, "RQ": 0.5}
    panoptic = {**pq, "things": pq, "stuff": pq, "classes": {"circle": pq}}
    metric = {"name": "panoptic.PQ", "value": 0.25}
    content = {key: content[key] for key in kept} | {"panoptic": panoptic, "metric": metric}
    (run / "evaluation.json").write_text(json.dumps(content))
    build(run)
    with opened(browser, (run / "report.html").as_uri()) as page:
        assert page.locator("#evaluation tbody tr").first.locator("td").all_text_contents() == [
            "all", "25.00", "50.00", "50.00",
        ]  # fmt: skip
