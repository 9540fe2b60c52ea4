"""The example of a user's own package, as its user would test it."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pipeline.errors import ConfigError
from pipeline.protocols import Aggregate, Sink, Stage
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
    with pytest.raises(ConfigError, match="margin_px: expected at least 0 pixels, got -1"):
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


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_options_build(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# python run.py --config-dir examples/user_package/conf ")
    config = OmegaConf.create({path.parent.name: OmegaConf.load(path), "output": "out"})
    (name,) = config[path.parent.name]
    assert name == path.stem
    built = instantiate(config[path.parent.name][name], _convert_="all")
    if path.parent.name == "stage":
        assert isinstance(built, Stage)
    else:
        assert isinstance(built, Aggregate)
        assert not isinstance(built, Sink)


def test_files_are_as_short_as_they_are_said_to_be():
    for path in EXAMPLE.glob("plant/*.py"):
        assert len(path.read_text().splitlines()) < 40, path


def test_the_readme_names_what_is_there():
    readme = (EXAMPLE / "README.md").read_text()
    for path in OPTIONS:
        assert f"{path.relative_to(EXAMPLE)}" in readme
    (command,) = re.findall(r"^PYTHONPATH=.*$", readme, re.MULTILINE)
    for group, names in re.findall(r"'(stage|sink)=\[(.*?)\]'", command):
        for name in names.split(","):
            option = f"conf/{group}/{name}.yaml"
            assert (EXAMPLE / option).exists() or (ROOT / option).exists(), option


def test_the_page_shows_the_code_that_is_there():
    page = (ROOT / "docs" / "write_a_stage.md").read_text()
    body = (EXAMPLE / "plant" / "stages.py").read_text()
    call = body[body.index("    def __call__") : body.index("\n\n\ndef at_least")]
    assert call in page
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for block in blocks:  # each runs as it stands, and the test in it passes
        scope: dict[str, object] = {"__name__": "page"}
        exec(compile(block, "write_a_stage.md", "exec", dont_inherit=True), scope)
        for name, value in list(scope.items()):
            if name.startswith("test_"):
                value()
