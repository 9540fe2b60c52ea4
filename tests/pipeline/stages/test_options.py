"""The YAML options of the stages: one key, named as the file, that builds without changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pipeline.protocols import Stage
from pipeline.stages.keep_classes import KeepClasses
from pipeline.stages.min_area import MinArea
from pipeline.stages.min_score import MinScore
from pipeline.stages.nms import Nms
from pipeline.stages.top_k import TopK
from pipeline.testing import make_result

ROOT = Path(__file__).parents[3]
OPTIONS = {
    "keep_classes": KeepClasses,
    "min_area": MinArea,
    "min_score": MinScore,
    "nms": Nms,
    "top_k": TopK,
}


def test_every_stage_is_an_option():
    files = {path.stem for path in (ROOT / "conf/stage").glob("*.yaml")}
    modules = {path.stem for path in (ROOT / "pipeline/stages").glob("[!_]*.py")}
    assert files == modules == set(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_builds(name):
    path = ROOT / f"conf/stage/{name}.yaml"
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# python run.py ")
    assert f"stage.{name}." in lines[0]  # the command shows how to change it
    assert len(lines) < 15
    config = OmegaConf.load(path)
    assert list(config) == [name]
    stage = instantiate(config, _convert_="all")[name]
    assert isinstance(stage, OPTIONS[name])
    assert isinstance(stage, Stage)
    assert stage(make_result(0)) is not None


def test_a_stage_fits_on_a_page():
    for path in (ROOT / "pipeline/stages").glob("[!_]*.py"):
        assert len(path.read_text().splitlines()) <= 42, path
