"""The Python blocks of the documentation, run in order as a reader would run them."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from finished_run import write_run

import pipeline

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = {"README.md": 1, "docs/python.md": 7, "docs/write_a_stage.md": 3}  # and their blocks
# test_models_page.py, test_outputs_page.py, test_serve_page.py, and bentoml.md in tests/examples
ELSEWHERE = {"docs/bentoml.md": 1, "docs/models.md": 5, "docs/outputs.md": 6, "docs/serve.md": 2}


def run_blocks(page: Path) -> dict[str, object]:
    """Run the Python blocks of a page, in one namespace, and the tests that they define."""
    text = page.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "page"}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))  # so that a traceback names the page's line
        exec(compile("\n" * line + block[1], str(page), "exec", dont_inherit=True), names)
    for name, value in list(names.items()):
        if name.startswith("test_") and callable(value):
            value()
    return names


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the examples, and an empty store."""
    monkeypatch.setenv("D2RUN_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(ROOT / "examples" / "user_package")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    write_run(tmp_path / "runs/night")
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "plant"]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.mark.detectron2
@pytest.mark.parametrize("name", PAGES)
def test_blocks_run(name: str, place: Path) -> None:
    page = ROOT / name
    assert len(BLOCK.findall(page.read_text(encoding="utf-8"))) == PAGES[name]
    run_blocks(page)


def test_every_page_is_tested() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): len(BLOCK.findall(path.read_text(encoding="utf-8")))
        for path in [*ROOT.glob("*.md"), *ROOT.glob("[bdep]*/**/*.md")]
    }
    assert {name: n for name, n in found.items() if n} == PAGES | ELSEWHERE


def test_a_failing_block_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError) as caught:
        run_blocks(page)
    assert caught.traceback[-1].lineno + 1 == 8  # pytest counts from 0


def test_everything_that_users_import_is_documented() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert [name for name in pipeline.__all__ if not re.search(rf"\b{name}\b", page)] == []
