"""The job returns its metric, which Hydra's sweepers optimize."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from evaluated import make

from runners import entry


def test_the_job_returns_the_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, run = make(tmp_path, n_images=12)
    monkeypatch.setenv("D2RUN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(entry.signal, "signal", lambda *arguments: None)
    returned: list[Any] = []
    original = entry.Hydra.run

    def kept(*arguments: Any) -> Any:
        returned.append(original(*arguments))
        return returned[-1]

    monkeypatch.setattr(entry.Hydra, "run", kept)
    options = [f"runner.run={run}", f"runner.ground_truth={truth}", "quiet=true"]
    for metric in ("box.AP75", "f1", "nonsense"):
        monkeypatch.setattr(
            sys, "argv", ["run.py", "runner=evaluate", *options, f"runner.metric={metric}"]
        )
        assert entry.main() == (2 if metric == "nonsense" else 0)
    found = json.loads((run / "evaluation.json").read_text())
    values = [each.return_value for each in returned]
    assert values == [found["box"]["AP75"], found["f1"]["together"]["f1"], None]
