"""The columns of a table go to the results, and a changed value is never left as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from batches import lines, run, write_images

from pipeline.errors import ConfigError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "in", "a.png", "b.png", "c.png")
    return tmp_path


def write_table(text: str) -> None:
    Path("t.csv").write_text(text)


def columns() -> dict[str, Any]:
    return {line["asset"]: line.get("columns") for line in lines(Path("out/predictions.jsonl"))}


def again(*more: str) -> dict[str, int]:
    return dict(run("input=t.csv", "output=out", *more).counts)


def test_records_and_coco(here: Path) -> None:
    write_table('path,site\nin/b.png,"north, ""7"""\nin/a.png,\n')
    again()
    first = lines(Path("out/predictions.jsonl"))[0]
    assert list(first)[-1] == "columns"
    assert columns() == {"in/b.png": {"site": 'north, "7"'}, "in/a.png": {"site": ""}}
    images = json.loads(Path("out/coco.json").read_bytes())["images"]
    assert [image["columns"] for image in images] == list(columns().values())


def test_a_changed_value_is_processed_again(here: Path) -> None:
    write_table("path,x\nin/a.png,1\nin/b.png,2\nin/c.png,3\n")
    assert again() == {"done": 3, "failed": 0}
    assert again() == {"done": 0, "failed": 0, "earlier": 3}
    write_table("path,x\nin/a.png,1\nin/b.png,22\nin/c.png,3\n")
    assert again() == {"done": 1, "failed": 0, "earlier": 2}
    assert columns()["in/b.png"] == {"x": "22"}
    write_table("path,y\nin/a.png,1\nin/b.png,22\nin/c.png,3\n")
    assert again() == {"done": 3, "failed": 0}
    write_table("path\nin/a.png\nin/b.png\nin/c.png\n")
    assert again() == {"done": 3, "failed": 0}
    assert set(columns().values()) == {None}
    resumed = Path("out/predictions.jsonl").read_bytes()
    run("input=t.csv", "output=fresh")
    assert resumed == Path("fresh/predictions.jsonl").read_bytes()


def test_a_file_that_is_gone_keeps_its_result(here: Path) -> None:
    write_table("path,x\nin/a.png,1\nin/b.png,2\n")
    again()
    Path("in/a.png").unlink()
    write_table("path,x\nin/a.png,11\nin/b.png,2\n")
    assert again()["earlier"] == 2
    assert columns()["in/a.png"] == {"x": "1"}


def test_repair_keeps_them(here: Path) -> None:
    write_table("path,x\nin/a.png,1\nin/b.png,2\n")
    again()
    Path("out/ledger.sqlite").write_bytes(b"")
    run("input=t.csv", "output=out", "runner=repair")
    assert again()["earlier"] == 2
    assert columns() == {"in/a.png": {"x": "1"}, "in/b.png": {"x": "2"}}


def test_a_table_that_is_refused(here: Path) -> None:
    write_table("path,x,x\nin/a.png,1,2\n")
    with pytest.raises(ConfigError, match="has several columns 'x'"):
        again()


def test_parquet(here: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    from pyarrow import parquet

    table = arrow.table({"path": ["in/a.png", "in/c.png"], "n": [7, None], "x": [0.5, 1.5]})
    parquet.write_table(table, "t.parquet")
    run("input=t.parquet", "output=out")
    assert columns() == {"in/a.png": {"n": 7, "x": 0.5}, "in/c.png": {"n": None, "x": 1.5}}
