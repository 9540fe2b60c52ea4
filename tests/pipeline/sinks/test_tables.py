"""The tables of ``sink=csv`` and ``sink=parquet``, read by pandas and DuckDB."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path
from threading import Event, Thread
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from journals import write_journal
from pycocotools import mask as coco_mask

import pipeline.validation
from pipeline.errors import ConfigError
from pipeline.masks import InstanceMasks
from pipeline.records import Categories, Frame, Predictions, Result
from pipeline.sinks.csv import CsvTables
from pipeline.sinks.parquet import ParquetTables
from pipeline.testing import make_predictions, make_result

SIZE = (48, 64)
CATEGORIES = Categories(("cat", "dog", "bird"))
FIXED = [
    "asset", "asset_b64", "frame", "time_s", "pts", "time_base", "width", "height", "image_id",
    "instance", "class_id", "class_name", "score", "x1", "y1", "x2", "y2", "area_px", "mask",
    "keypoints", "track_id",
]  # fmt: skip


def ring() -> InstanceMasks:
    dense = np.zeros((1, *SIZE), bool)
    dense[0, 4:20, 6:30] = True
    dense[0, 8:12, 10:20] = False  # a hole
    return InstanceMasks.from_dense(dense)


def results() -> list[Result]:
    """A mask with a hole, no instance, a frame of a video with tracks, a name that is not UTF-8."""
    video = Frame(
        np.zeros((*SIZE, 3), np.uint8), "v.mp4", 2, pts=2002, time_base=Fraction(1, 30000)
    )
    return [
        make_result(boxes=[[6, 4, 30, 20]], asset_id='a/"x", y.jpg', masks=ring(), keypoints=2),
        make_result(0, asset_id="none.jpg"),
        Result(video, make_predictions(3, track_ids=np.array([7, 8, -1]))),
        make_result(1, asset_id="caf\udce9.jpg"),
    ]


def build(directory: Path, *rows: Result, **options: Any) -> Path:
    journal = write_journal(directory, rows or results())
    CsvTables(directory, **options).build(journal, CATEGORIES)
    ParquetTables(directory, **options).build(journal, CATEGORIES)
    return directory


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_per_instance(tmp_path: Path) -> None:
    rows = read_csv(build(tmp_path) / "instances.csv")
    assert list(rows[0]) == FIXED
    assert [(row["asset"], row["instance"]) for row in rows] == [
        ('a/"x", y.jpg', "0"), ("v.mp4", "0"), ("v.mp4", "1"), ("v.mp4", "2"),
        ("caf\\xe9.jpg", "0"),
    ]  # fmt: skip
    assert rows[1] | {"x1": "", "y1": "", "x2": "", "y2": "", "area_px": ""} == {
        "asset": "v.mp4", "asset_b64": "", "frame": "2", "time_s": str(2002 / 30000),
        "pts": "2002", "time_base": "1/30000", "width": "64", "height": "48", "image_id": "3",
        "instance": "0", "class_id": "0", "class_name": "cat", "score": "0.9", "x1": "", "y1": "",
        "x2": "", "y2": "", "area_px": "", "mask": "", "keypoints": "", "track_id": "7",
    }  # fmt: skip
    assert rows[-1]["asset_b64"] == "Y2Fm6S5qcGc="
    frames = read_csv(tmp_path / "frames.csv")
    assert [(row["asset"], row["image_id"], row["instances"]) for row in frames] == [
        ('a/"x", y.jpg', "1", "1"), ("none.jpg", "2", "0"), ("v.mp4", "3", "3"),
        ("caf\\xe9.jpg", "4", "1"),
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_the_mask_comes_back(tmp_path: Path) -> None:
    build(tmp_path)
    for row in (
        pd.read_csv(tmp_path / "instances.csv").iloc[0],
        pd.read_parquet(tmp_path / "parquet").iloc[0],
    ):
        rle = {"size": [int(row["height"]), int(row["width"])], "counts": row["mask"]}
        np.testing.assert_array_equal(coco_mask.decode(rle).astype(bool), ring().dense()[0])
        assert row["area_px"] == ring().area_px[0] == 16 * 24 - 40


def test_csv_and_parquet_hold_the_same_float32(tmp_path: Path) -> None:
    boxes = np.random.default_rng(0).uniform(0, 40, (50, 4)).astype(np.float32)
    build(tmp_path, make_result(boxes=boxes, scores=boxes[:, 0] / 41))
    corners = ["x1", "y1", "x2", "y2"]
    from_text = pd.read_csv(tmp_path / "instances.csv")
    typed = pd.read_parquet(tmp_path / "parquet")
    assert {str(kind) for kind in typed[corners].dtypes} == {"float32"}
    np.testing.assert_array_equal(typed[corners].to_numpy(), boxes)
    np.testing.assert_array_equal(from_text[corners].to_numpy().astype(np.float32), boxes)
    np.testing.assert_array_equal(typed["score"], np.float32(from_text["score"]))


def test_duckdb_reads_types(tmp_path: Path) -> None:
    build(tmp_path)
    found = duckdb.sql(f"""
        SELECT asset, sum(area_px), any_value(keypoints)[1].score
        FROM '{tmp_path}/parquet/*.parquet' GROUP BY asset ORDER BY min(image_id)
    """).fetchall()
    assert [row[0] for row in found] == ['a/"x", y.jpg', "v.mp4", "caf\\xe9.jpg"]
    line = json.loads((tmp_path / "predictions.jsonl").read_text().splitlines()[0])
    assert np.float32(found[0][2]) == np.float32(line["instances"][0]["keypoints"][0][2])
    (empty,) = duckdb.sql(
        f"SELECT asset FROM '{tmp_path}/frames.parquet' WHERE instances = 0"
    ).fetchall()
    assert empty == ("none.jpg",)
    columns = duckdb.sql(f"DESCRIBE FROM read_csv('{tmp_path}/instances.csv')").fetchall()
    assert [column[0] for column in columns] == FIXED


def test_added_columns_have_the_type_of_their_values(tmp_path: Path) -> None:
    extra = {
        "sharp": np.array([True, False]),
        "count": np.array([1, 2]),
        "length": np.float32([1.1, np.nan]),
        "note": np.array(["=1+1", 'say "hi"']),
        "color": np.array([[1, 2, 3], [4, 5, 6]]),
        "score_px": np.float32([np.nan, np.nan]),
        "area_px": np.array([1, 2]),  # taken
    }
    other = make_result(1, asset_id="b.jpg", extra={"count": np.float32([0.5])})
    build(tmp_path, make_result(2, extra=extra), other)
    table = pq.read_table(tmp_path / "parquet")
    assert {name: str(table.schema.field(name).type) for name in table.column_names[21:]} == {
        "sharp": "bool", "count": "double", "length": "double", "note": "string",
        "color": "string", "score_px": "double", "extra_area_px": "int64",
    }  # fmt: skip
    assert table["length"].to_pylist() == [1.1, None, None]
    assert table["color"].to_pylist() == ["[1, 2, 3]", "[4, 5, 6]", None]
    rows = read_csv(tmp_path / "instances.csv")
    assert [rows[0][name] for name in ("sharp", "count", "length", "note", "color")] == [
        "true", "1.0", "1.1", "=1+1", "[1, 2, 3]",
    ]  # fmt: skip
    assert rows[1]["note"] == 'say "hi"'
    assert pd.read_csv(tmp_path / "instances.csv")["note"].tolist()[:2] == ["=1+1", 'say "hi"']


def test_columns_of_the_input_travel(tmp_path: Path) -> None:
    journal = write_journal(tmp_path, [make_result(2), make_result(0, asset_id="b.jpg")])
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    lines[0]["manifest"] = {"camera": "north", "width": 3}
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    CsvTables(tmp_path).build(journal, CATEGORIES)
    rows, frames = read_csv(tmp_path / "instances.csv"), read_csv(tmp_path / "frames.csv")
    assert [(row["camera"], row["extra_width"]) for row in rows] == [("north", "3")] * 2
    assert [row["camera"] for row in frames] == ["north", ""]


def test_min_score_keeps_positions(tmp_path: Path) -> None:
    build(
        tmp_path,
        make_result(scores=[0.9, 0.3, 0.5]),
        make_result(1, scores=[np.nan]),
        min_score=0.5,
    )
    rows = read_csv(tmp_path / "instances.csv")
    assert [(row["instance"], row["score"]) for row in rows] == [("0", "0.9"), ("2", "0.5")]
    assert pd.read_parquet(tmp_path / "parquet")["instance"].tolist() == [0, 2]
    assert pd.read_parquet(tmp_path / "frames.parquet")["instances"].tolist() == [2, 0]


def test_what_is_not_finite_is_empty(tmp_path: Path) -> None:
    build(tmp_path, make_result(boxes=[[np.nan, 1, 2, 3]], scores=[np.inf]))
    (row,) = read_csv(tmp_path / "instances.csv")
    assert (row["x1"], row["y1"], row["score"], row["area_px"]) == ("", "1.0", "", "")
    assert pd.read_parquet(tmp_path / "parquet")["x1"].isna().all()


@pytest.mark.parametrize("rows", [[], [make_result(0)]], ids=["no frame", "no instance"])
def test_nothing_has_all_columns(tmp_path: Path, rows: list[Result]) -> None:
    journal = write_journal(tmp_path, rows)
    CsvTables(tmp_path).build(journal, CATEGORIES)
    ParquetTables(tmp_path).build(journal, CATEGORIES)
    assert pd.read_csv(tmp_path / "instances.csv").columns.tolist() == FIXED
    table = pd.read_parquet(tmp_path / "parquet")
    assert (len(table), table.columns.tolist()) == (0, FIXED)
    assert len(pd.read_csv(tmp_path / "frames.csv")) == len(rows)


def test_parts_are_bounded_and_leftovers_removed(tmp_path: Path) -> None:
    journal = write_journal(tmp_path, [make_result(3, asset_id=f"{i}") for i in range(3)])
    parts = tmp_path / "parquet"
    ParquetTables(tmp_path, rows_per_file=2).build(journal, CATEGORIES)
    assert [len(pd.read_parquet(path)) for path in sorted(parts.iterdir())] == [2, 2, 2, 2, 1]
    (parts / ".0123456789abcdef-1.2.part").touch()  # of a run that was killed
    (parts / "notes.txt").touch()
    ParquetTables(tmp_path, rows_per_file=5).build(journal, CATEGORIES)
    names = ["notes.txt", "part-00000.parquet", "part-00001.parquet"]
    assert sorted(path.name for path in parts.iterdir()) == names
    ParquetTables(tmp_path, rows_per_file=9).build(journal, CATEGORIES)
    assert [len(pd.read_parquet(path)) for path in parts.glob("*.parquet")] == [9]


def test_readers_see_whole_files_during_a_build(tmp_path: Path) -> None:
    journal = write_journal(tmp_path, [make_result(50, asset_id=f"{i}") for i in range(8)])
    sink = ParquetTables(tmp_path, rows_per_file=40)
    sink.build(journal, CATEGORIES)
    over, counts = Event(), []

    def read() -> None:
        while not over.is_set():
            counts.append(sum(pq.read_table(p).num_rows for p in (tmp_path / "parquet").iterdir()
                              if p.suffix == ".parquet"))  # fmt: skip

    reader = Thread(target=read)
    reader.start()
    for _ in range(3):
        sink.build(journal, CATEGORIES)
    over.set()
    reader.join()
    assert set(counts) <= {400}


def test_equal_lines_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        build(tmp_path / name)
    for file in ("instances.csv", "frames.csv", "parquet/part-00000.parquet", "frames.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_for_spreadsheets(tmp_path: Path) -> None:
    rows = [
        make_result(1, asset_id="=cmd.jpg", class_names=["-x"], masks=True),
        make_result(1, asset_id="b.jpg", class_names=["猫"], boxes=[[-3, 0, 5, 5]]),
    ]
    CsvTables(tmp_path, spreadsheet=True).build(write_journal(tmp_path, rows), CATEGORIES)
    raw = (tmp_path / "instances.csv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbfasset,")
    with (tmp_path / "instances.csv").open(encoding="utf-8-sig", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["asset"], first["class_name"]) == ("'=cmd.jpg", "'-x")
    assert (second["class_name"], second["x1"]) == ("猫", "-3.0")
    assert "mask" not in first
    CsvTables(tmp_path, masks=False).build(tmp_path / "predictions.jsonl", CATEGORIES)
    first = read_csv(tmp_path / "instances.csv")[0]
    assert (first["asset"], "mask" in first) == ("=cmd.jpg", False)


def test_lone_surrogates_are_escaped(tmp_path: Path) -> None:
    p = Predictions((4, 4), ("\ud800",), np.float32([[0, 0, 2, 2]]), np.float32([1]), np.array([0]))
    build(tmp_path, Result(Frame(np.zeros((4, 4, 3), np.uint8), "a"), p))
    assert read_csv(tmp_path / "instances.csv")[0]["class_name"] == "\\ud800"
    assert pd.read_parquet(tmp_path / "parquet")["class_name"].tolist() == ["\\ud800"]


def test_memory_does_not_grow_with_the_lines(tmp_path: Path) -> None:
    def peak(n: int) -> int:
        directory = tmp_path / str(n)
        journal = write_journal(directory, [make_result(50)])
        journal.write_bytes(journal.read_bytes() * n)
        tracemalloc.start()
        CsvTables(directory).build(journal, CATEGORIES)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(1)
    assert peak(60) < peak(10) + 200_000


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (CsvTables, {"min_score": 2}, "min_score: expected a number from 0 to 1, got 2"),
        (CsvTables, {"masks": "no"}, "masks: expected true or false, got 'no'"),
        (CsvTables, {"spreadsheet": 1}, "spreadsheet: expected true or false, got 1"),
        (ParquetTables, {"min_score": -1}, "min_score: expected a number from 0 to 1, got -1"),
        (
            ParquetTables,
            {"rows_per_file": 0},
            "rows_per_file: expected a whole number of at least 1, got 0",
        ),
    ],
)
def test_bad_options(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make("anywhere", **options)
    assert str(caught.value) == message


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.validation, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pyarrow is not installed.*'d2run\[parquet\]'"):
        ParquetTables("anywhere").check(CATEGORIES)


def test_importing_the_sinks_imports_no_reader() -> None:
    code = (
        "import sys, pipeline.sinks.csv, pipeline.sinks.parquet\n"
        "assert not {'pandas', 'pyarrow', 'torch', 'cv2'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": "."})
