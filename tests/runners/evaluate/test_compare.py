"""``runner.compare``: differences between two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from evaluated import make, records_of, write_run

from pipeline.errors import ConfigError

THRESHOLD = {"_target_": "pipeline.stages.min_score.MinScore", "threshold": 0.4}


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path, Path]:
    truth, run = make(tmp_path, found=0.95)
    _, other = make(tmp_path / "other", seed=3, found=0.5, config={"stage": {"x": THRESHOLD}})
    return truth, run, other


def test_differences_and_intervals(runs: Any, evaluate: Any) -> None:
    truth, run, other = runs
    found, _ = evaluate(run, truth, compare=str(other), bootstrap=200)
    alone, _ = evaluate(other, truth)
    for kind in ("box", "mask"):
        for name in ("AP", "AP50", "AR100"):
            row = found["comparison"][kind][name]
            low, high = row["interval"]
            assert row["this"] == found[kind][name]
            assert row["other"] == alone[kind][name]
            assert row["difference"] == pytest.approx(row["this"] - row["other"])
            assert low < row["difference"] < high
            assert low > 0
    differences = found["comparison"]["disagreements"]
    sizes = [abs(each["errors"] - each["other_errors"]) for each in differences]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1
    assert found["warnings"] == [
        "the other run: predictions below a score of 0.4 are missing "
        "(stage.x), so AP and AR are too low; run again with 'stage=[]' for COCO's numbers"
    ]
    again, _ = evaluate(run, truth, compare=str(other), bootstrap=200)
    assert again == found


def test_a_run_with_itself(runs: Any, evaluate: Any) -> None:
    truth, run, _ = runs
    found, _ = evaluate(run, truth, compare=str(run), bootstrap=20)
    assert found["comparison"]["mask"]["AP"]["interval"] == [0, 0]
    assert found["comparison"]["disagreements"] == []


def test_only_common_images_count(runs: Any, evaluate: Any) -> None:
    truth, run, other = runs
    write_run(other, records_of(other)[10:])
    write_run(run, records_of(run)[:40])
    found, _ = evaluate(run, truth, compare=str(other), bootstrap=0)
    assert found["images"]["evaluated"] == 40
    assert found["comparison"]["images"] == 30
    assert found["comparison"]["mask"]["AP"]["interval"] is None
    write_run(other, records_of(other)[40:])
    with pytest.raises(ConfigError, match="have no image of the ground truth in common"):
        evaluate(run, truth, compare=str(other))


def test_it_needs_hotcoco(runs: Any, evaluate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, run, other = runs
    monkeypatch.setattr("runners.evaluate.engine.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"Run: pip install 'd2run\[evaluate\]'"):
        evaluate(run, truth, compare=str(other))
