"""``sweep.html`` in Chromium: the table of jobs, and the same images side by side."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from chromium import expect_status, is_painted, launched, opened, set_threshold
from finished_run import write_run

from pipeline.records import Categories, Frame, Result
from pipeline.sinks.report.html import encoded
from pipeline.testing import make_predictions
from runners.reporting import sweep_images
from runners.reporting.sweep import SweepJob
from runners.reporting.sweep_page import write_sweep_page

ODD = "<img src=x onerror=alert(1)>"
NAMES = ("cat", "dog")
WHITE = np.full((48, 64, 3), 255, np.uint8)
PNG = cv2.imencode(".png", WHITE)[1].tobytes()


def write_job(directory: Path, number: int, counts: list[int], names: tuple[str, ...]) -> None:
    """Write a run: image ``i`` has ``counts[i]`` detections."""
    results = []
    for i, n in enumerate(counts):
        p = make_predictions(n, class_names=names, masks=True, seed=i)
        results.append(Result(Frame(WHITE, f"{ODD}{i}.png"), p))
    record = {
        "inputs": [[{"path": str(directory.parent / "in"), "pattern": "", "cwd": None}]],
        "counts": {"done": len(counts)},
        "totals": {"done": len(counts)},
        "detections": {name: sum(counts) for name in names[:1]},
        "model": {"categories": asdict(Categories(thing_names=names, skeleton=((0, 1),)))},
    }
    run = write_run(directory / str(number), results, **record)
    inputs = (run / "inputs.jsonl").read_text()
    (run / "inputs.jsonl").write_text(inputs.replace("0" * 64, hashlib.sha256(PNG).hexdigest()))
    (run / "report.html").write_text("a report")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep: two jobs with other classes and numbers, one that failed, one that was killed."""
    directory = tmp_path_factory.mktemp("sweeps") / "sweep"
    (directory.parent / "in").mkdir()
    for i in range(3):  # the last image is gone
        (directory.parent / "in" / f"{ODD}{i}.png").write_bytes(PNG)
    write_job(directory, 0, [1, 2, 3, 4], NAMES)
    write_job(directory, 1, [1, 4, 3], NAMES[::-1])
    write_job(directory, 3, [1], NAMES)
    rows = [(0, 0, 0.5), (1, 3, 0.75), (2, 2, None), (3, 137, None)]
    jobs = [
        SweepJob.of(i, (f"a.b={i * 10}", f"model={ODD}"), status, 1.5, directory / str(i), metric,
                    "no such stage" if status == 2 else "")
        for i, status, metric in rows
    ]  # fmt: skip
    options = ("a.b=40", f"model={ODD}")
    jobs.append(SweepJob.of(4, options, None, None, directory / "4", message="job 2 failed"))
    write_sweep_page(directory, jobs)
    return directory


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, directory: Path) -> Iterator[Any]:
    with opened(browser, (directory / "sweep.html").as_uri()) as page:
        yield page


def data_of(directory: Path) -> dict[str, Any]:
    text = (directory / "sweep.html").read_text(encoding="utf-8")
    found = re.search(r'id="data">(.*?)</script>', text)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def rows(page: Any) -> list[list[str]]:
    script = "rows => rows.map(row => [...row.cells].slice(1).map(cell => cell.textContent))"
    found: list[list[str]] = page.eval_on_selector_all("#jobs tbody tr", script)
    return found


def test_each_image_is_embedded_once(directory: Path) -> None:
    data = data_of(directory)
    assert data["things"] == ["cat", "dog"]
    assert [image["id"] for image in data["images"]] == [f"{ODD}{i}.png" for i in range(4)]
    assert [bool(image["src"]) for image in data["images"]] == [True, True, True, False]
    assert [[job for job, *_ in image["results"]] for image in data["images"]] == [
        [0, 1], [0, 1], [0, 1], [0],
    ]  # fmt: skip
    of_image = {job: detections for job, _, detections, _ in data["images"][1]["results"]}
    assert [each[0] for each in of_image[0]] == [0, 1]
    assert [each[0] for each in of_image[1]] == [1, 0, 1, 0]  # its classes are in another order


def test_it_has_a_limit(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [SweepJob.of(i, (), 0, 1, directory / str(i)) for i in (0, 1)]
    every = sweep_images.read_images(directory, jobs, 10**6)[0]["images"]
    sizes = [len(encoded(image)) + 1 for image in every]
    for limit in (0, max(sizes), sum(sizes) - 1):
        images = sweep_images.read_images(directory, jobs, limit)[0]["images"]
        assert sum(len(encoded(image)) + 1 for image in images) <= limit
        assert len(images) < len(every)
    monkeypatch.setattr(sweep_images, "MAX_IMAGES", 2)
    sample = sweep_images.read_images(directory, jobs, 10**6)[0]["images"]
    assert len(sample) == 2
    assert all(image in every for image in sample)


def test_damaged_results_do_not_stop_it(directory: Path, tmp_path: Path) -> None:
    write_job(tmp_path, 0, [2], NAMES)
    job = SweepJob.of(0, (), 0, 1, tmp_path / "0")
    (tmp_path / "0/predictions.jsonl").write_text("{half")
    write_sweep_page(tmp_path, [job])
    text = (tmp_path / "sweep.html").read_text()
    assert "predictions.jsonl" in text
    assert data_of(tmp_path)["images"] == []


@pytest.mark.browser
def test_the_table(page: Any) -> None:
    assert rows(page) == [
        ["0", "0", "done (0)", "4", "10", "0.5000", "1.50", "report", "10", "0"],
        ["1", "10", "done, but some inputs failed (3)", "3", "8", "0.7500", "1.50", "report", "0",
         "8"],
        ["2", "20", "invalid configuration (2)no such stage", "", "", "", "1.50", "", "", ""],
        ["3", "30", "killed (137)", "", "", "", "1.50", "report", "", ""],
        ["4", "40", "not startedjob 2 failed", "", "", "", "", "", "", ""],
    ]  # fmt: skip
    assert page.locator("#jobs tr.best td").nth(1).text_content() == "1"
    assert page.get_by_role("link", name="Report of job 1").get_attribute("href") == "1/report.html"
    head = page.get_by_role("columnheader", name="metric")
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert [row[0] for row in rows(page)] == ["1", "0", "2", "3", "4"]  # the best first
    assert head.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Enter")
    assert [row[0] for row in rows(page)] == ["0", "1", "2", "3", "4"]


@pytest.mark.browser
def test_score_classes_and_jobs_act_live(page: Any) -> None:
    expect_status(page, "4 of 4 images; detections in job 0: 10, job 1: 8")
    titles = page.locator("#grid h3").all_text_contents()
    assert titles[0] == f"{ODD}1.png"  # the largest difference
    assert is_painted(page, "#grid .card canvas")
    assert page.locator("#grid .missing").count() == 1
    page.get_by_label("dog").uncheck()
    expect_status(page, "4 of 4 images; detections in job 0: 6, job 1: 3")
    page.click("#all-classes")
    set_threshold(page, 0.6)
    expect_status(page, "4 of 4 images; detections in job 0: 5, job 1: 4")
    page.get_by_label("Show job 0").uncheck()
    expect_status(page, "3 of 4 images; detections in job 1: 4")
    assert page.get_by_label("Show job 2").is_disabled()
    page.fill("#name", "2.PNG")
    expect_status(page, "1 of 4 images; detections in job 1: 1")


@pytest.mark.browser
def test_the_keyboard_is_enough(page: Any) -> None:
    page.select_option("#sort", "order")
    page.wait_for_function("() => document.querySelector('#grid h3').textContent.endsWith('0.png')")
    page.focus("#grid .card")
    page.keyboard.press("Enter")
    title = page.locator("#viewer-title")
    name = "b=%d"
    assert title.text_content() == f"{ODD}0.png, job 0: {name % 0} (1 of 4)"
    page.keyboard.press("ArrowRight")
    assert title.text_content() == f"{ODD}1.png, job 0: {name % 0} (2 of 4)"
    page.keyboard.press("+")
    assert is_painted(page, "#stage canvas")
    width = "document.querySelector('#stage canvas').clientWidth"
    before = page.evaluate(width)
    page.keyboard.press("ArrowDown")  # the same image of the other job, at the same zoom
    assert title.text_content() == f"{ODD}1.png, job 1: {name % 10} (2 of 3)"
    assert page.locator("#panel tbody tr").count() == 4
    assert page.evaluate(width) == before
    page.keyboard.press("ArrowDown")  # there is no more
    assert page.get_by_role("button", name="Next job").is_disabled()
    page.keyboard.press("ArrowUp")
    assert title.text_content() == f"{ODD}1.png, job 0: {name % 0} (2 of 4)"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "card"


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 2560])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits(page: Any, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    is_wider = "document.documentElement.scrollWidth > window.innerWidth"
    assert not page.evaluate(is_wider)
    page.locator("#grid .card").nth(1).click()
    assert is_painted(page, "#stage canvas")
    assert not page.evaluate(is_wider)
