"""The example of a custom package, tested as its author would."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.protocols import (
    Aggregate,
    Asset,
    BeginsAssets,
    Durable,
    Sink,
    Source,
    Stage,
)
from pipeline.records import Categories
from pipeline.testing import make_result

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "user_package"
OPTIONS = sorted(EXAMPLE.glob("conf/*/*.yaml"))


@pytest.fixture(autouse=True)
def plant(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    yield importlib.import_module("plant")
    for name in [name for name in sys.modules if name.split(".")[0] == "plant"]:
        del sys.modules[name]


@pytest.fixture
def stages(plant):
    return importlib.import_module("plant.stages")


@pytest.fixture
def sinks(plant):
    return importlib.import_module("plant.sinks")


@pytest.mark.parametrize(
    ("margin_px", "kept"),
    [
        pytest.param(0, [4, 5], id="0: touching"),
        pytest.param(1, [5], id="1: near"),
        pytest.param(12, [], id="12: none"),
    ],
)
def test_not_at_edge(stages, margin_px, kept):
    boxes = [
        [0, 10, 20, 30],
        [10, 0, 20, 30],
        [10, 10, 64, 30],
        [10, 10, 20, 48],
        [0.5, 10, 20, 30],
        [10, 10, 20, 30],
    ]
    result = make_result(boxes=boxes, size=(48, 64), track_ids=range(6))
    assert stages.NotAtEdge(margin_px)(result).predictions.track_ids.tolist() == kept


def test_not_at_edge_returns_the_same_object_when_all_stay(stages):
    for result in (make_result(boxes=[[10, 10, 20, 30]]), make_result(0)):
        assert stages.NotAtEdge()(result) is result


def test_not_at_edge_refuses_a_negative_margin(stages):
    with pytest.raises(ConfigError, match="margin_px: expected a number of at least 0, got -1"):
        stages.NotAtEdge(margin_px=-1)


@pytest.mark.parametrize(("n", "kept"), [(0, True), (2, True), (3, True), (4, False)])
def test_at_least(stages, n, kept):
    result = make_result(3)
    assert stages.at_least(n)(result) is (result if kept else None)


def test_counts(sinks, tmp_path):
    def line(asset, *names):
        instances = [{"class_name": name} for name in names]
        return json.dumps({"asset": asset, "frame": 0, "instances": instances})

    predictions = tmp_path / "predictions.jsonl"
    lines = [
        line("a.jpg", "cat", "dog", "cat"),
        line("b, c.jpg"),
        line(os.fsdecode(b"\xff.jpg"), "dog"),
        json.dumps({"asset": "only_semantic.jpg", "frame": 0}),
    ]
    predictions.write_text("\n".join(lines) + "\n")
    sink = sinks.CountsCsv(str(tmp_path / "new" / "counts.csv"))
    for _ in range(2):  # a second run replaces the file
        sink.build(predictions, Categories(thing_names=("cat", "dog")))
        assert sink.path.read_bytes() == (
            b"asset,frame,cat,dog\n"
            b"a.jpg,0,2,1\n"
            b'"b, c.jpg",0,0,0\n'
            b"\\udcff.jpg,0,0,1\n"
            b"only_semantic.jpg,0,0,0\n"
        )
    assert [path.name for path in sink.path.parent.iterdir()] == ["counts.csv"]


def test_counts_leave_the_old_file_when_a_line_is_broken(sinks, tmp_path):
    (tmp_path / "predictions.jsonl").write_text("{")
    (tmp_path / "counts.csv").write_text("old")
    with pytest.raises(json.JSONDecodeError):
        sinks.CountsCsv(tmp_path / "counts.csv").build(tmp_path / "predictions.jsonl", Categories())
    assert (tmp_path / "counts.csv").read_text() == "old"


def test_counts_is_an_aggregate(sinks, tmp_path):
    sink = sinks.CountsCsv(tmp_path / "counts.csv")
    assert isinstance(sink, Aggregate)
    assert not isinstance(sink, Sink)
    assert sink.outputs == ("counts.csv",)


def test_on_change(plant):
    stage = importlib.import_module("plant.changes").OnChange()
    assert isinstance(stage, BeginsAssets)
    kept = []
    for counts in ([2, 2, 3, 3, 0], [0, 1, 1]):  # two assets
        stage.begin(None)
        kept.append([stage(make_result(n)) is not None for n in counts])
    assert kept == [[True, False, True, False, True], [True, True, False]]


def test_tables(plant, tmp_path):
    asset, failed = SimpleNamespace(id="a/b.tif"), SimpleNamespace(id="c.tif")
    with importlib.import_module("plant.tables").Tables(str(tmp_path)) as sink:
        assert isinstance(sink, Sink)
        assert isinstance(sink, Durable)
        sink.begin(asset)
        for i in range(2):
            sink.write(make_result(i, index=i, time_s=i / 10))
        assert not (tmp_path / "tables").exists()  # nothing half-written is visible
        sink.flush(asset)
        sink.begin(failed)
        sink.discard(failed)
        sink.sync()
    table = tmp_path / "tables" / "a" / "b.tif.csv"
    assert table.read_text() == "frame,seconds,instances\n0,0.000,0\n1,0.100,1\n"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [table]


def write_stack(path: Path, *levels: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = [Image.fromarray(np.full((24, 32, 3), (level, 0, 9), np.uint8)) for level in levels]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def test_stacks(plant, tmp_path):
    write_stack(tmp_path / "b.tif", 1, 2, 3)
    write_stack(tmp_path / "a.tiff", 7)
    source = importlib.import_module("plant.stacks").stacks(str(tmp_path), fps=5)
    assert [asset.id for asset in source] == ["a.tiff", "b.tif"]
    assert all(isinstance(asset, Asset) and not asset.is_still for asset in source)
    frames = list(source[1].frames())
    assert [frame.image[0, 0].tolist() for frame in frames] == [[9, 0, 1], [9, 0, 2], [9, 0, 3]]
    assert [(frame.index, frame.time_s) for frame in frames] == [(0, 0), (1, 0.2), (2, 0.4)]
    assert source[1].fingerprint() == hashlib.sha256(source[1].path.read_bytes()).hexdigest()


def test_source_stage_and_sink_in_a_run(tmp_path):
    """A stack of three pages, one that is broken, and one of a single page."""
    write_stack(tmp_path / "stacks" / "a.tif", 1, 2, 3)
    (tmp_path / "stacks" / "b.tif").write_text("no TIFF")
    write_stack(tmp_path / "stacks" / "c.tif", 4)
    command = [
        sys.executable, str(ROOT / "run.py"), "--config-dir", str(EXAMPLE / "conf"),
        "trusted_packages=[pipeline,runners,plant]", "source=stacks", "source.fps=2",
        "stage=[min_score,on_change]", "sink=[tables]", "model=shapes", "runnable=fake",
        f"input={tmp_path / 'stacks'}", f"output={tmp_path / 'out'}",
    ]  # fmt: skip
    environment = {"PYTHONPATH": str(EXAMPLE), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    tables = {path.name: path.read_text() for path in (tmp_path / "out" / "tables").iterdir()}
    assert tables == {
        f"{name}.tif.csv": f"frame,seconds,instances\n0,0.000,{n}\n"
        for name, n in {"a": 3, "c": 3}.items()
    }
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert [(r["asset"], r["frame"], r["time_s"]) for r in map(json.loads, lines)] == [
        ("a.tif", 0, 0.0), ("c.tif", 0, 0.0),
    ]  # fmt: skip
    (failure,) = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    assert json.loads(failure)["asset"] == "b.tif"


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_options_build(path):
    group, lines = path.parent.name, path.read_text().splitlines()
    assert lines[0].startswith("# python run.py --config-dir examples/user_package/conf ")
    config = OmegaConf.create({"node": OmegaConf.load(path), "output": "out", "input": "in"})
    node = config.node
    if group != "source":
        assert list(node) == [path.stem]
        node = node[path.stem]
    built = instantiate(node, _convert_="all")
    kind = {"stage": Stage, "sink": Sink | Aggregate, "source": Source}[group]
    assert isinstance(built, kind)


def test_parts_are_short():
    for path in EXAMPLE.glob("plant/*.py"):
        text = path.read_text()
        assert len(text.splitlines()) < 50, path
        for node in ast.parse(text).body:
            assert node.end_lineno - node.lineno + 1 < 40, path


def test_the_readme_names_what_is_there():
    readme = (EXAMPLE / "README.md").read_text()
    for path in OPTIONS:
        assert f"`{path.relative_to(EXAMPLE)}`" in readme
    for path in EXAMPLE.glob("plant/[a-z]*.py"):
        assert f"`{path.relative_to(EXAMPLE)}`" in readme
    commands = re.findall(r"^PYTHONPATH=.*$", readme, re.MULTILINE)
    assert len(commands) == 2
    for group, names in re.findall(r"(?:'|\b)(stage|sink|source)=\[?([\w,]+)", "".join(commands)):
        for name in names.split(","):
            option = f"conf/{group}/{name}.yaml"
            assert (EXAMPLE / option).exists() or (ROOT / option).exists(), option


def test_the_page_shows_the_code_that_is_there():
    page = (ROOT / "docs" / "write_a_stage.md").read_text()
    body = (EXAMPLE / "plant" / "stages.py").read_text()
    call = body[body.index("    def __call__") : body.index("\n\n\ndef at_least")]
    assert call in page
