"""The Python of docs/outputs.md, run on the results of a full and of an empty run."""

from __future__ import annotations

import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from journals import write_journal

from pipeline.records import Categories
from pipeline.sinks.delivery.endpoint import _headers
from pipeline.sinks.parquet import ParquetTables
from pipeline.testing import make_result

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "outputs.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)

IMAGES = [{"id": 7, "file_name": "a/b.jpg", "width": 64, "height": 48}]
TRUTH = {
    "info": {},
    "images": IMAGES,
    "categories": [{"id": 1, "name": "crack"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 7,
            "category_id": 1,
            "bbox": [1, 2, 20, 20],
            "area": 400,
            "iscrowd": 0,
        }
    ],
}
NOT_RUN = {"fiftyone": "not a dependency, and it starts a database"}
RESULT = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 20, 20], "score": 0.9}
FRAME = {"asset": "a/b.jpg", "frame": 0, "instances": [{"class_name": "crack", "score": 0.9}]}


def block(word: str) -> str:
    (found,) = (block for block in BLOCKS if word in block)
    return found


@pytest.fixture(params=[pytest.param(True, id="full"), pytest.param(False, id="empty")])
def full(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    run = tmp_path / "runs" / "night"
    run.mkdir(parents=True)
    (tmp_path / "annotations.json").write_text(json.dumps(TRUTH))
    images = [IMAGES[0] | {"id": 1}] if request.param else []
    (run / "coco.json").write_text(json.dumps({"images": images}))
    (run / "coco_results.json").write_text(json.dumps([RESULT] if request.param else []))
    (run / "predictions.jsonl").write_text(json.dumps(FRAME) + "\n" if request.param else "")
    monkeypatch.chdir(tmp_path)
    return bool(request.param)


def test_evaluation(full: bool, capsys: pytest.CaptureFixture[str]) -> None:
    exec(block("COCOeval"), {})
    found = re.findall(
        r"IoU=0.50:0.95 \| area=   all \| maxDets=100 \] = (\S+)", capsys.readouterr().out
    )
    assert found == (["1.000", "1.000"] if full else [])


def test_the_scores(full: bool, capsys: pytest.CaptureFixture[str]) -> None:
    exec(block("statistics"), {})
    assert capsys.readouterr().out == ("crack 1 0.9\n" if full else "")


def test_supervision(full: bool, tmp_path: Path) -> None:
    result = {**RESULT, "id": 1, "area": 400, "iscrowd": 0, "segmentation": []}
    images = [IMAGES[0] | {"id": 1}] if full else []
    coco = {**TRUTH, "images": images, "annotations": [result] if full else []}
    (tmp_path / "runs/night/coco.json").write_text(json.dumps(coco))
    names: dict[str, object] = {}
    exec(block("supervision").replace(", force_masks=True", ""), names)
    assert len(names["dataset"]) == full  # type: ignore[arg-type]


def test_the_tables(full: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs/night"
    rows = [
        make_result(1, class_names=["crack"], scores=[0.9]),
        make_result(0, asset_id="none.jpg"),
    ]
    ParquetTables(run).build(write_journal(run, rows if full else []), Categories(("crack",)))
    exec(block("duckdb"), {})
    printed = capsys.readouterr().out
    assert ("none.jpg" in printed, "crack" in printed) == (full, full)


def test_the_signature_of_the_webhook() -> None:
    names: dict[str, Any] = {}
    exec(block("hmac"), names)
    headers = _headers(BytesIO(b"{}"), b"key")
    assert names["is_authentic"](b"{}", headers["X-D2run-Signature"], b"key")
    assert not names["is_authentic"](b"{ }", headers["X-D2run-Signature"], b"key")


def test_every_block_is_run() -> None:
    words = {"COCOeval", "duckdb", "hmac", "statistics", "supervision", *NOT_RUN}
    assert [sum(word in block for word in words) for block in BLOCKS] == [1] * len(words)
