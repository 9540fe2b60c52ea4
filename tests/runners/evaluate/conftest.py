from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runners.evaluate import engine
from runners.evaluate.runner import Evaluate


@pytest.fixture(params=["hotcoco", "pycocotools"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Evaluate with this library."""
    found = engine.find_spec if request.param == "hotcoco" else lambda name: None
    monkeypatch.setattr(engine, "find_spec", found)
    return request.param


@pytest.fixture
def evaluate(tmp_path: Path) -> Callable[..., Any]:
    """Evaluate a run; return the content of ``evaluation.json`` and the report."""

    def run(run: Path, truth: Path, **options: Any) -> Any:
        job = SimpleNamespace(
            source=None,
            output=tmp_path / "unused",
            config={"quiet": True, "input": None, "seed": 0},
        )
        report = Evaluate(run=str(run), ground_truth=str(truth), **options).run(job)
        return json.loads((run / "evaluation.json").read_text()), report

    return run
