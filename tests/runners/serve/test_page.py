"""The page at ``/`` and the API reference at ``/docs``, used in Chromium as a person would.

One browser and one server with the model ``shapes``; each test has a page of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import cv2
import numpy as np
import pytest
from chromium import launched
from command_line import ROOT, command, environment
from pycocotools import mask as coco_mask

from pipeline.sinks.drawing.colors import color

SCENES = ROOT / "examples" / "shapes" / "scenes"
SCENE = SCENES / "scene_2026_0001.jpg"
ROWS = "#table tbody tr:not([hidden])"
DONE = "body:not(.busy) #result:not([hidden]) canvas[aria-label]"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.detectron2,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # pycocotools
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service."""
    arguments = command("runner=serve", "runner.port=0", "model=shapes", "device=cpu")
    process = subprocess.Popen(
        arguments,
        cwd=tmp_path_factory.mktemp("serve"),
        env=environment(tmp_path_factory.mktemp("home")),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    with process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"serving (\S+)", line):
                yield found[1]
                break
        else:
            pytest.fail("".join(lines))
        process.terminate()
        assert process.wait(60) == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


class Watched:
    """A page of which all requests, errors and messages are recorded."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.problems: list[str] = []
        page.set_default_timeout(30_000)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._console)

    def _console(self, message: Any) -> None:
        # Chromium reports answers with an error status here, which no page can prevent
        if "the server responded with a status of" not in message.text:
            self.problems.append(f"{message.type}: {message.text}")


@pytest.fixture
def watched(browser: Any, url: str) -> Iterator[Watched]:
    """A new page; it must stay on this machine and report no problem, such as a CSP violation."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    watched = Watched(context.new_page())
    watched.page.goto(url)
    yield watched
    context.close()
    hosts = {urlsplit(one).hostname for one in watched.requests if not one.startswith("data:")}
    assert hosts == {"127.0.0.1"}
    assert watched.problems == []


def drop(page: Any, name: str, content: bytes, media_type: str = "image/jpeg") -> None:
    """Drop a file on the page, with the events that a browser sends."""
    transfer = page.evaluate_handle(
        """([name, content, type]) => {
            const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type }));
            return transfer;
        }""",
        [name, b64encode(content).decode(), media_type],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def answer_to(url: str, scene: Path) -> dict[str, Any]:
    with urlopen(Request(f"{url}predict", scene.read_bytes())) as answer:
        return json.load(answer)


def show(page: Any, *scenes: Path) -> None:
    page.set_input_files("#files", [str(scene) for scene in scenes])
    page.wait_for_selector(DONE)


def test_drop_an_image_and_read_the_table(watched: Watched, url: str) -> None:
    page = watched.page
    drop(page, SCENE.name, SCENE.read_bytes())
    page.wait_for_selector(DONE)
    instances = sorted(answer_to(url, SCENE)["instances"], key=lambda one: -one["score"])
    assert len(instances) > 5
    cells = [row.split("\t") for row in page.locator(ROWS).all_inner_texts()]
    assert [row[0].strip() for row in cells] == [one["class_name"] for one in instances]
    assert [row[1] for row in cells] == [
        "0.99+" if one["score"] >= 0.995 else f"{one['score']:.2f}" for one in instances
    ]
    status = page.inner_text("#status")
    assert f"{SCENE.name}: {len(instances)} detections (" in status
    assert page.inner_text("#model").startswith("shapes")
    assert page.inner_text("#device") == "cpu"
    assert page.inner_text("#curl code") == f"curl --data-binary @'{SCENE.name}' {url}predict"
    assert page.get_attribute('a:text("API reference")', "href") == "docs"


def test_drawn_where_and_as_the_overlay_draws(watched: Watched, url: str) -> None:
    """Masks are blended with the color of their class, as in ``sink=overlay``."""
    page = watched.page
    answer = answer_to(url, SCENE)
    show(page, SCENE)
    page.wait_for_timeout(100)  # it is drawn with the next frame
    shot = cv2.imdecode(np.frombuffer(page.locator("#canvas canvas").screenshot(), np.uint8), 1)
    shot = cv2.resize(shot, (answer["width"], answer["height"]), interpolation=cv2.INTER_AREA)
    image = cv2.imread(str(SCENE))
    masks = [coco_mask.decode(one["mask"]) for one in answer["instances"]]
    n_checked = 0
    for one, mask in zip(answer["instances"], masks, strict=True):
        inner = cv2.erode(mask, np.ones((9, 9), np.uint8), borderValue=1) > 0
        inner &= sum(masks) == 1
        if inner.sum() < 200:
            continue
        expected = 0.55 * image[inner] + 0.45 * np.array(color(one["class_id"]))
        far = np.median(shot[inner].astype(float) - expected, axis=0)
        assert np.abs(far).max() < 10, one["class_name"]
        n_checked += 1
    assert n_checked > 3
    outside = sum(masks) == 0
    assert np.abs(np.median(shot[outside].astype(float) - image[outside], axis=0)).max() < 5


def test_colors_and_masks_are_those_of_python(watched: Watched) -> None:
    page, rng = watched.page, np.random.default_rng(0)
    found = page.evaluate(
        """async (n) => {
            const { classColor } = await import("/page/drawing.js");
            return Array.from({ length: n }, (_, id) => classColor(id));
        }""",
        100,
    )
    assert np.abs(np.array(found)[:, ::-1] - [color(i) for i in range(100)]).max() <= 1
    for size in ((1, 1), (7, 5), (40, 60)):
        mask = np.asfortranarray(cv2.blur(rng.random(size), (3, 3)) > 0.5, np.uint8)
        rle = coco_mask.encode(mask)
        inside = page.evaluate(
            """async (rle) => {
                const { outline } = await import("/page/drawing.js");
                const { path, area } = outline(rle);
                const context = document.createElement("canvas").getContext("2d");
                const [height, width] = rle.size;
                const inside = [];
                for (let y = 0; y < height; y++)
                  for (let x = 0; x < width; x++)
                    inside.push(context.isPointInPath(path, x + 0.5, y + 0.5, "evenodd"));
                return [area, inside];
            }""",
            {"size": list(size), "counts": rle["counts"].decode()},
        )
        assert inside[0] == mask.sum()
        assert (np.array(inside[1], np.uint8).reshape(size) == mask).all()


def test_threshold_and_classes(watched: Watched) -> None:
    page = watched.page
    show(page, SCENE)
    total = page.locator(ROWS).count()
    page.fill("#threshold", "0.9")
    assert page.inner_text("output") == "0.90"
    above = page.locator(ROWS).count()
    assert 0 < above < total
    assert f"{above} of {total} detections shown" in page.get_attribute(
        "#threshold", "aria-valuetext"
    )
    page.uncheck("#classes label:has-text('circle') input")
    names = page.locator(f"{ROWS} td:first-child").all_inner_texts()
    assert {name.strip() for name in names} == {"square", "triangle"}
    show(page, SCENES / "scene_2026_0003.jpg")  # settings stay from image to image
    assert page.inner_text("output") == "0.90"


def file_chooser(page: Any, key: str, attempts: int = 3) -> Any:
    """Press a key on the button until files can be chosen: a busy Chromium may ignore the first."""
    from playwright.sync_api import TimeoutError

    page.focus("#drop")
    try:
        with page.expect_file_chooser(timeout=10_000) as chooser:
            page.keyboard.press(key)
    except TimeoutError:
        if attempts == 1:
            raise
        return file_chooser(page, key, attempts - 1)
    return chooser.value


def test_the_keyboard_is_enough(watched: Watched) -> None:
    page = watched.page
    for key, scene in (("Enter", SCENE), ("Space", SCENES / "scene_2026_0003.jpg")):
        file_chooser(page, key).set_files(str(scene))
        page.wait_for_selector(DONE)

    def tab() -> str:
        page.keyboard.press("Tab")
        return page.evaluate("document.activeElement.id || document.activeElement.tagName")

    page.focus("#drop")
    assert [tab(), tab(), tab()] == ["BUTTON", "BUTTON", "threshold"]
    page.keyboard.press("ArrowRight")
    assert page.inner_text("output") == "0.01"
    page.keyboard.press("End")
    page.keyboard.press("Home")
    while tab() != "TR":
        pass
    assert page.locator("tr.active").count() == 1
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.rowIndex") == 2
    assert page.evaluate("document.activeElement.className") == "active"
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.nextElementSibling") is None
    assert [tab(), tab()] == ["PRE", "BUTTON"]
    page.keyboard.press("Enter")
    page.wait_for_selector("#status:text('Copied')")


@pytest.mark.parametrize(
    ("status", "title", "can_retry"),
    [
        (413, "The image is too large for this service", False),
        (415, "This kind of file is not supported", False),
        (429, "The service is busy", True),
        (503, "The service is not available", True),
    ],
)
def test_errors_are_sentences(watched: Watched, status: int, title: str, can_retry: bool) -> None:
    page = watched.page
    answer = {"status": status, "json": {"error": "<b>why</b>"}, "headers": {"Retry-After": "2"}}
    page.route("**/predict", lambda route: route.fulfill(**answer))
    drop(page, "<i>a.jpg", b"x")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error h2") == title
    assert page.inner_text("#error p") == "<i>a.jpg: <b>why</b> (wait 2 s)"  # text, not HTML
    assert page.is_visible("#error button") is can_retry
    if can_retry:
        page.unroute("**/predict")
        page.click("#error button")  # the service now answers: no image
        page.wait_for_selector("#error h2:text('cannot be used')")


def test_one_bad_image_among_good_ones(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    show(page, SCENE, bad, SCENES / "scene_2026_0003.jpg")
    texts = page.locator("#strip small").all_inner_texts()
    assert [bool(re.fullmatch(r"\d+ found", text)) for text in texts] == [True, False, True]
    page.click("#strip button.failed")
    assert "not an image" in page.inner_text("#error p")
    assert page.is_hidden("#result")
    page.click("#strip li:last-child button")
    page.wait_for_selector(DONE)
    assert page.is_hidden("#error")


def test_a_token_is_requested_and_kept_in_memory(watched: Watched) -> None:
    page = watched.page
    sent: list[str | None] = []

    def guard(route: Any) -> None:
        sent.append(route.request.headers.get("authorization"))
        if sent[-1] == "Bearer secret":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": "this service needs its token"})

    page.route(re.compile("/(info|predict)$"), guard)
    page.reload()
    page.wait_for_selector("#access:not([hidden])")
    page.set_input_files("#files", str(SCENE))
    page.wait_for_selector("#error h2:text('token')")
    for token in ("wrong", "secret"):
        page.fill("#token", token)
        page.keyboard.press("Enter")
        if token == "wrong":
            page.wait_for_selector("#error h2:text('token')")
            page.wait_for_selector("#access:not([hidden])")
    page.wait_for_selector(DONE)
    assert sent[-1] == "Bearer secret"
    assert '-H "Authorization: Bearer $D2RUN_TOKEN"' in page.inner_text("#curl code")
    assert "secret" not in page.content()
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [
        0,
        0,
        "",
    ]


def test_keypoints_maps_and_dropped_images(watched: Watched) -> None:
    page = watched.page
    person = {
        "box": [10, 10, 100, 200],
        "score": 0.9,
        "class_id": 0,
        "class_name": "person",
        "track_id": 7,
        "keypoints": [[50, 20, 0.9], [50, 100, 0.8], [None, None, 0.9]],
    }
    odd = {"box": [None, 1, 2, 3], "score": None, "class_id": 1, "class_name": "odd"}
    line: dict[str, Any] = {"width": 278, "height": 307, "instances": [person, odd]}
    page.route("**/predict", lambda route: route.fulfill(body=json.dumps(line)))
    show(page, SCENE)
    assert page.locator(ROWS).all_inner_texts() == [
        "#7 person\t0.90\t90 \N{MULTIPLICATION SIGN} 190",
        "odd\t\N{EN DASH}\t\N{EN DASH}",
    ]
    line["sem_seg"] = "data:image/png;base64,"
    with page.expect_response("**/overlay"):
        page.set_input_files("#files", str(SCENE))
    page.wait_for_selector("#note:not([hidden])")
    line |= {"dropped": True, "instances": []}
    del line["sem_seg"]
    page.set_input_files("#files", str(SCENE))
    page.wait_for_selector("#status:text('dropped this image')")


def contrast(page: Any, selector: str) -> float:
    """The contrast of an element's text against its background (WCAG)."""
    return page.eval_on_selector(
        selector,
        """(element) => {
            const parse = (text) => text.match(/[\\d.]+/g).map(Number);
            const luminance = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
                .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
            const text = luminance(parse(getComputedStyle(element).color));
            let below = element;
            const color = () => parse(getComputedStyle(below).backgroundColor);
            while (color()[3] === 0) below = below.parentElement;
            const [high, low] = [text, luminance(color())].sort((a, b) => b - a);
            return (high + 0.05) / (low + 0.05);
        }""",
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_color_schemes_and_all_widths(watched: Watched, scheme: str) -> None:
    page = watched.page
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    show(page, SCENE, SCENES / "scene_2026_0003.jpg")
    background = page.eval_on_selector("body", "(one) => getComputedStyle(one).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 200) is (scheme == "dark")
    texts = ["dt", "dd", "nav a", "#drop span", "#strip small", "#strip [aria-current] small"]
    texts += ["#status", "#classes small", "caption span", "th", "td", "#curl code"]
    for selector in [*texts, "#error h2", "#error p"]:
        assert contrast(page, selector) >= 4.5, selector
    for width in (360, 1280, 2560):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("#canvas canvas").bounding_box()["width"] > 250
    assert page.evaluate("document.getAnimations().length") == 0


def test_docs(watched: Watched, url: str) -> None:
    page = watched.page
    page.goto(f"{url}docs")
    page.click(".opblock-summary-control >> nth=0")
    page.wait_for_selector(".opblock-body")
    paths = set(page.locator(".opblock-summary-path").all_inner_texts())
    described = page.request.get(f"{url}openapi.json").json()
    assert paths == set(described["paths"])
    assert described["openapi"].startswith("3.1")
    assert page.locator(".errors-wrapper").count() == 0


def test_policies(watched: Watched, url: str) -> None:
    for path in ("", "docs", "page/script.js"):
        headers = watched.page.request.get(url + path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'" in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    folder = ROOT / "runners/serve/http/page"
    assert not re.search(r"<script>|<style|\son\w+=|\sstyle=|innerHTML", "".join(
        path.read_text("utf-8") for path in folder.iterdir()))  # fmt: skip
