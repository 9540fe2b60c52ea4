"""A page in Chromium. It must make no request and report no problem, such as one of its policy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def launched(*arguments: str) -> Iterator[Any]:
    """Run Chromium while the block runs; skip the test if there is none."""
    program = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if program is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []  # Chromium refuses it as root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*sandbox, *arguments])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, url: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(30_000)
    requests: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    yield page
    context.close()
    assert [one for one in requests if not one.startswith("data:")] == [url]
    assert problems == []


def expect_status(page: Any, text: str) -> None:
    page.wait_for_function(
        "(text) => document.querySelector('#status').textContent === text", arg=text
    )


# Strings that are no functions would be evaluated in the page, which its policy forbids.
def is_painted(page: Any, selector: str) -> bool:
    """Wait until a canvas has more than one color."""
    script = """(selector) => {
        const canvas = document.querySelector(selector);
        if (!canvas?.width) return false;
        const { width, height } = canvas;
        const often = { willReadFrequently: true };
        const copy = new OffscreenCanvas(width, height).getContext("2d", often);
        copy.drawImage(canvas, 0, 0);
        const { data } = copy.getImageData(0, 0, width, height);
        return new Set(new Uint32Array(data.buffer)).size > 1;
    }"""
    page.wait_for_function(script, arg=selector)
    return True


def set_threshold(page: Any, value: float) -> None:
    page.evaluate(
        """(value) => {
            const input = document.querySelector("#threshold");
            input.value = value;
            input.dispatchEvent(new Event("input"));
        }""",
        value,
    )
