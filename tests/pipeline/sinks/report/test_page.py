"""The page of a run in Chromium, used as a person would.

It must make no request and report no problem, such as a violation of its policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from chromium import expect_status, is_painted, launched, opened, set_threshold
from finished_run import StillImage, write_run

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.records import Categories, Frame, Result
from pipeline.sinks.report import HtmlReport
from pipeline.testing import make_predictions

NAMES = ("cat", "dog", "bird")
ODD = "<img src=x onerror=alert(1)>"
CARD = "#grid .card:not(.failed)"
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page: stills with 0, 1, 2 ... detections, a video with tracks, and a failure."""
    run = tmp_path_factory.mktemp("report") / "run"
    results = []
    for n in range(5):
        p = make_predictions(n, class_names=NAMES, masks=True, keypoints=3, seed=n)
        frame = Frame(np.full((48, 64, 3), 255, np.uint8), f"{'sub/' * (n % 2)}{ODD}{n}.jpg")
        results.append(Result(frame, p))
    for i in range(4):
        p = make_predictions(2, class_names=NAMES, track_ids=np.array([4, 7]))
        results.append(Result(Frame(np.zeros((48, 64, 3), np.uint8), "v.mp4", i, time_s=i / 10), p))
    write_run(run, results)
    (run / "failures.jsonl").write_text(
        '{"asset": "bad.jpg", "step": "decode", "error": "E", "message": "cut", "attempts": 1}\n'
    )
    categories = Categories(thing_names=NAMES, skeleton=((0, 1), (1, 2)))
    images = [StillImage(result.frame) for result in results[:5]]
    HtmlReport(run).build(run / PREDICTIONS, categories, images)
    return (run / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    with opened(browser, url) as page:
        yield page


def names(page: Any) -> list[str]:
    return page.locator("#grid .name").all_text_contents()  # type: ignore[no-any-return]


def test_it_shows_the_images(page: Any) -> None:
    expect_status(page, "9 of 9 images, 18 detections, 1 failure")
    assert len(names(page)) == 10
    assert is_painted(page, f"li:nth-child(3) {CARD.split()[1]} canvas")
    assert page.locator("#grid .failed .frame").text_content() == "decode: cut"
    assert page.locator("#videos h3").text_content() == "v.mp4"
    assert page.locator("#videos summary").text_content() == "2 tracks"


def test_score_and_classes_act_live(page: Any) -> None:
    set_threshold(page, 0.6)
    expect_status(page, "9 of 9 images, 9 detections, 1 failure")
    page.get_by_label("cat").uncheck()
    expect_status(page, "2 of 9 images, 1 detection, 1 failure")  # one without any
    page.click("#all-classes")
    expect_status(page, "9 of 9 images, 9 detections, 1 failure")
    set_threshold(page, 0)
    page.click("#no-class")
    page.get_by_label("bird").check()
    expect_status(page, "3 of 9 images, 2 detections, 1 failure")


def test_sort_and_filter(page: Any) -> None:
    page.select_option("#sort", "most")
    page.wait_for_function(
        "() => document.querySelector('#grid .name').textContent.includes('4.jpg')"
    )
    page.select_option("#sort", "failure")
    page.wait_for_function("() => document.querySelector('#grid .name').textContent === 'bad.jpg'")
    page.select_option("#kind", "empty")
    expect_status(page, "1 of 9 images, 0 detections")
    page.select_option("#kind", "reason:decode")
    expect_status(page, "0 of 9 images, 0 detections, 1 failure")
    page.select_option("#kind", "all")
    page.select_option("#folder", "/sub")
    page.wait_for_function("() => document.querySelectorAll('#grid li').length === 2")
    page.select_option("#folder", "")
    page.fill("#name", "V.MP4")
    expect_status(page, "4 of 9 images, 8 detections")


def test_the_keyboard_is_enough(page: Any) -> None:
    page.focus(f"li:nth-child(4) {CARD.split()[1]}")
    page.keyboard.press("Enter")
    title = page.locator("#viewer-title")
    assert title.text_content() == f"sub/{ODD}3.jpg (4 of 9)"
    assert is_painted(page, "#stage canvas")
    assert page.locator("#panel tbody tr").count() == 3
    page.keyboard.press("ArrowRight")
    assert title.text_content() == f"{ODD}4.jpg (5 of 9)"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert title.text_content() == f"{ODD}2.jpg (3 of 9)"
    width = "document.querySelector('#stage canvas').clientWidth"
    is_painted(page, "#stage canvas")
    before = page.evaluate(width)
    page.keyboard.press("+")
    assert page.evaluate(width) == pytest.approx(1.5 * before, abs=3)
    page.keyboard.press("-")
    assert page.evaluate(width) == before
    page.keyboard.press("Escape")
    assert not page.evaluate("document.querySelector('#viewer').open")
    assert page.evaluate("document.activeElement.className") == "card"  # where it was


@pytest.mark.parametrize("width", [360, 2560])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits(page: Any, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    is_wider = "document.documentElement.scrollWidth > window.innerWidth"
    assert not page.evaluate(is_wider)
    page.locator(CARD).nth(1).click()
    assert is_painted(page, "#stage canvas")
    assert not page.evaluate(is_wider)
    assert page.get_by_role("button", name="Close").is_visible()
