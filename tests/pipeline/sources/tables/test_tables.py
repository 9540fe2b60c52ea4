"""Tables of images: their columns, what is refused, and how much memory they take."""

from __future__ import annotations

import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.protocols import AnnotatedAsset
from pipeline.sources import ImageAsset, Manifest


def csv_file(folder: Path, data: bytes | str) -> str:
    path = folder / "t.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def parquet_file(folder: Path, columns: dict[str, Any] | Any) -> str:
    arrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    from pyarrow import parquet

    path = folder / "t.parquet"
    table = arrow.table(columns) if isinstance(columns, dict) else columns
    parquet.write_table(table, path)
    return str(path)


def columns(source: Manifest) -> dict[str, Any]:
    found = {}
    for asset in source:
        assert isinstance(asset, AnnotatedAsset)
        found[Path(asset.id).name] = asset.columns
    return found


def test_csv_values_are_text(tmp_path: Path) -> None:
    text = 'id, path ,camera,"note, long"\n007,a.jpg,é,"x\ny"\n1e3,b.jpg\n,c.jpg,,\n'
    assert columns(Manifest(csv_file(tmp_path, text))) == {
        "a.jpg": {"id": "007", "camera": "é", "note, long": "x\ny"},
        "b.jpg": {"id": "1e3", "camera": "", "note, long": ""},
        "c.jpg": {"id": "", "camera": "", "note, long": ""},
    }


def test_csv_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    found = columns(Manifest(csv_file(tmp_path, b"path,x\na.jpg,caf\xe9\0\n")))
    assert found == {"a.jpg": {"x": os.fsdecode(b"caf\xe9\0")}}


def test_a_table_of_paths_alone_has_no_columns(tmp_path: Path) -> None:
    (asset,) = Manifest(csv_file(tmp_path, "path,,\na.jpg,,\n"))
    assert type(asset) is ImageAsset
    assert asset.columns is None


def test_the_first_row_of_a_path_counts(tmp_path: Path) -> None:
    source = Manifest(csv_file(tmp_path, "path,x\na.jpg,1\n./a.jpg,2\nb.jpg,3\n"))
    assert columns(source) == {"a.jpg": {"x": "1"}, "b.jpg": {"x": "3"}}
    assert [entry.reason for entry in source.skipped()] == ["listed twice"]


def test_parquet_values_keep_their_types(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    table = {
        "n": arrow.array([1, None], arrow.int64()),
        "path": ["a.jpg", "b.jpg"],
        "x": [0.1, None],
        "ok": [True, False],
        "site": arrow.array(["é", "b"]).dictionary_encode(),
        "none": arrow.nulls(2),
        "long": arrow.array(["c", None], arrow.large_string()),
    }
    assert columns(Manifest(parquet_file(tmp_path, table))) == {
        "a.jpg": {"n": 1, "x": 0.1, "ok": True, "site": "é", "none": None, "long": "c"},
        "b.jpg": {"n": None, "x": None, "ok": False, "site": "b", "none": None, "long": None},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,x\na.jpg,1\n", "has no column 'path'"),
        ("path,x,x\na.jpg,1,2\n", "has several columns 'x': give each its own name"),
        ("path,path\na.jpg,b.jpg\n", "has several columns 'path'"),
        ("path,,x\na.jpg,1,2\n", "line 2: column 2 has a value and no name in the first line"),
        ("path,x\na.jpg,1,2\n", "line 2: it has more cells than the first line"),
        ("path,x\n,1\n", "line 2: the path is empty"),
    ],
)
def test_csv_that_is_refused(tmp_path: Path, text: str, message: str) -> None:
    source = Manifest(csv_file(tmp_path, text))
    with pytest.raises(ConfigError, match=rf"^input: the table '.*t\.csv' .*{message}"):
        source.check()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"file": ["a.jpg"]}, "has no column 'path'"),
        ({"path": [1]}, "the column 'path' is int64, not text"),
        ({"path": ["a.jpg", None]}, "the path in row 2 is empty"),
        ({"path": ["a.jpg"], "": [1]}, "has a column without a name"),
        ({"path": ["a.jpg"], "x": [[1, 2]]}, r"the column 'x' is list<.*, not text, a number"),
        ({"path": ["a.jpg"], "x": [{"y": 1}]}, r"the column 'x' is struct<y: int64>, not text"),
        ({"path": ["a.jpg"], "x": [b"z"]}, "the column 'x' is binary, not text"),
        ({"path": ["a.jpg", "b.jpg"], "x": [1.0, float("nan")]}, "'x' is nan in row 2, which"),
        ({"path": ["a.jpg"], "x": [float("inf")]}, "'x' is inf in row 1, which"),
    ],
)
def test_parquet_that_is_refused(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    source = Manifest(parquet_file(tmp_path, table))
    with pytest.raises(ConfigError, match=rf"^input: the table '.*t\.parquet'.* ?{message}"):
        source.check()


def test_parquet_with_two_columns_of_a_name(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    table = arrow.Table.from_arrays(
        [arrow.array(["a.jpg"]), arrow.array([1]), arrow.array([2])], names=["path", "x", "x"]
    )
    with pytest.raises(ConfigError, match="has several columns 'x'"):
        Manifest(parquet_file(tmp_path, table)).check()


@pytest.mark.parametrize("data", [b"", b"path\na.jpg\n", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_file_that_is_no_parquet(tmp_path: Path, data: bytes) -> None:
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(ConfigError, match=r"^input: cannot read the table '.*': [^\n]+$"):
        Manifest(str(tmp_path / "t.parquet")).check()
    with pytest.raises(ConfigError, match=r"cannot read the table .*: no such file"):
        Manifest(str(tmp_path / "gone.parquet")).check()


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"needs the extra parquet: .*uv sync --extra parquet`"):
        Manifest(str(tmp_path / "t.parquet")).check()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_memory_of_many_rows(tmp_path: Path, kind: str) -> None:
    n = 20_000
    paths = [f"folder/image_{i:07d}.jpg" for i in range(n)]
    values = {"id": [str(i) for i in range(n)], "site": ["north"] * n, "x": ["0.25"] * n}
    if kind == "csv":
        rows = zip(paths, *values.values(), strict=True)
        text = "\n".join(",".join(row) for row in [("path", *values), *rows])
        source = Manifest(csv_file(tmp_path, text))
    else:
        source = Manifest(parquet_file(tmp_path, {"path": paths, **values}))
    next(iter(source))  # imports
    tracemalloc.start()
    try:
        assets = iter(source)
        asset = next(assets)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(asset, AnnotatedAsset)
    assert held < 500 * n
    assert peak < 900 * n
