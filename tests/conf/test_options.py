"""Every option of every group composes and builds, and the rules of the conf tree hold."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml
from finished_run import write_run
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import pipeline.config.build  # registers the schema
from pipeline import protocols
from pipeline.errors import ConfigError
from pipeline.job import Runner

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
OPTIONS = sorted(
    path.relative_to(CONF).with_suffix("").as_posix()
    for path in CONF.rglob("*.yaml")
    if path != CONF / "config.yaml"
)
# what an option needs before it can be built; without it the error names it
NEEDS = {
    "model/custom": [
        "model.config=COCO-Detection/faster_rcnn_R_50_FPN_3x",
        "model.weights=random",
        "model.class_names=[crack]",
    ],
    "model/semantic_fpn": ["model.weights=random"],
    "model/stored": ["model.tag=shapes"],
    "runnable/replay": ["runnable.run={root}/recorded", "source=recorded", "input=null"],
    "model/recorded": ["model.run={root}/recorded"],
    "source/remote": ["input=memory://"],
    "source/recorded": ["source.run={root}/recorded", "input=null"],
    "sink/webhook": ["sink.webhook.url=http://127.0.0.1:9/results"],
    "stage/keep_classes": ["stage.keep_classes.names=[circle]"],
    "source/archive": ["input={root}/x.zip"],
    "source/stream": ["input=rtsp://host/x"],
    "source/coco": ["input={root}/x.json"],
    "source/manifest": ["input={root}/list.txt"],
}


def composed(tmp_path: Path, *overrides: str) -> Any:
    (tmp_path / "list.txt").write_text("")
    (tmp_path / "x.json").write_text('{"images": []}')
    ZipFile(tmp_path / "x.zip", "w").close()
    write_run(tmp_path / "recorded")
    base = ["model=shapes", f"input={tmp_path}", f"output={tmp_path}/run"]
    given = [override.replace("{root}", str(tmp_path)) for override in overrides]
    base = [item for item in base if item.split("=")[0] not in {g.split("=")[0] for g in given}]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [*base, *given])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D2RUN_HOME", str(tmp_path / "home"))


def overrides_for(option: str) -> list[str]:
    group, name = option.split("/")
    multiple = group in ("stage", "sink")
    return [f"{group}=[{name}]" if multiple else f"{group}={name}", *NEEDS.get(option, [])]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_builds(option: str, tmp_path: Path) -> None:
    job = pipeline.config.build.build_job(composed(tmp_path, *overrides_for(option)))
    assert isinstance(job.runnable, protocols.Runnable)
    assert isinstance(job.source, protocols.Source)
    assert isinstance(job.runner, Runner)
    assert all(callable(stage) for stage in job.stages.values())
    assert all(isinstance(sink, protocols.Sink) for sink in job.sinks.values())
    assert list(job.sinks)[-1] == "label_maps"
    group, name = option.split("/")
    if group == "stage":
        assert list(job.stages) == [name]
    if group == "sink":
        assert name in {**job.sinks, **job.aggregates}
    if group == "model":
        assert job.model.categories.thing_names or job.model.categories.stuff_names


def test_every_option_is_seen() -> None:
    groups = {"model", "store", "runnable", "source", "stage", "sink", "runner"}
    assert {option.split("/")[0] for option in OPTIONS} == groups
    assert {path.name for path in CONF.iterdir() if path.is_dir()} - {"__pycache__"} == groups


@pytest.mark.parametrize("option", OPTIONS)
def test_options_are_short_and_say_how_they_are_used(option: str) -> None:
    text = (CONF / f"{option}.yaml").read_text()
    assert text.startswith("# ")
    assert "python run.py" in text.splitlines()[0]
    assert len(text.splitlines()) <= 26  # a watch has that many options
    content = yaml.safe_load(text)
    group, name = option.split("/")
    if group in ("stage", "sink"):
        assert list(content) == [name]


@pytest.mark.parametrize("option", [o for o in OPTIONS if o in NEEDS and o != "source/manifest"])
def test_what_an_option_needs_is_named(option: str, tmp_path: Path) -> None:
    if option == "stage/keep_classes":
        needed = "did you mean|known: circle"
    else:
        needed = "|".join(item.split("=")[0].removeprefix("model.") for item in NEEDS[option])
    with pytest.raises(ConfigError, match=needed):
        pipeline.config.build.build_job(composed(tmp_path, overrides_for(option)[0]))


def test_building_leaves_the_configuration_as_it_was(tmp_path: Path) -> None:
    cfg = composed(tmp_path)
    before = OmegaConf.to_yaml(cfg)
    pipeline.config.build.build_job(cfg)
    assert OmegaConf.to_yaml(cfg) == before


@pytest.mark.parametrize(
    ("overrides", "stages"),
    [
        pytest.param(["stage=[nms,min_score]"], ["nms", "min_score"], id="order is kept"),
        pytest.param(["stage=top_k"], ["top_k"], id="one"),
        pytest.param(["stage=[]"], [], id="none"),
        pytest.param(["~stage.min_score"], [], id="removed"),
        pytest.param(
            ["+stage.mine={_target_:pipeline.stages.top_k.TopK,k:1}"],
            ["min_score", "mine"],
            id="appended",
        ),
    ],
)
def test_the_choice_of_stages(tmp_path: Path, overrides: list[str], stages: list[str]) -> None:
    assert list(pipeline.config.build.build_job(composed(tmp_path, *overrides)).stages) == stages


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("batch_size=0", "batch_size: expected auto or a whole number of at least 1, got 0"),
        ("batch_size=1.5", "got 1.5"),
        ("batch_size=all", "got 'all'"),
        ("batch_size=true", "got true"),
        ("batch_size=null", "got null"),
        ("decode_threads=0", "decode_threads: expected a whole number from 1 to 1024, got 0"),
        ("queue_mb=0", "queue_mb: expected a whole number of at least 1, got 0"),
        (
            "decode.isolation=thread",
            "decode.isolation: expected auto, process or none, got 'thread'",
        ),
        ("decode.jpeg=turbo", "decode.jpeg: expected pillow or nvjpeg, got 'turbo'"),
        ("decode={jpeg:nvjpeg,isolation:process}", "decode.jpeg=nvjpeg decodes in the job's own"),
        (
            "decode.timeout_s=0",
            "decode.timeout_s: expected a number of seconds above 0, at most 86400, got 0.0",
        ),
        (
            "decode.timeout_s=inf",
            "decode.timeout_s: expected a number of seconds above 0, at most 86400, got inf",
        ),
        ("decode.timeout_s=nan", "decode.timeout_s: .* got nan"),
        ("decode.memory_mb=63", "decode.memory_mb: expected a whole number from 64 to .*, got 63"),
    ],
)
def test_values_that_no_job_can_have(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        pipeline.config.build.build_job(composed(tmp_path, override, "runnable=fake"))


def test_exact_is_of_pillows_pixels(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"remove decode\.jpeg=nvjpeg"):
        pipeline.config.build.build_job(composed(tmp_path, "runnable=exact", "decode.jpeg=nvjpeg"))


def test_fingerprint_changes_with_what_changes_results(tmp_path: Path) -> None:
    def print_of(*overrides: str) -> str:
        return pipeline.config.build.build_job(composed(tmp_path, *overrides)).fingerprint()

    (tmp_path / "other").mkdir()
    same = [[], ["quiet=true"], [f"input={tmp_path}/other"], [f"output={tmp_path}/elsewhere"],
            ["decode_threads=4"], ["queue_mb=1"], ["decode.isolation=process"],
            ["decode.timeout_s=5"], ["decode.memory_mb=100"]]  # fmt: skip
    other = [
        ["stage.min_score.threshold=0.6"], ["stage=[]"], ["sink=[]"], ["exif=false"], ["seed=1"],
        ["stage=[top_k,min_score]"], ["stage=[min_score,top_k]"],
        ["model.score_threshold=0.2"], ["batch_size=2"], ["runnable=fake"], ["device=cuda:0"],
        ["decode.jpeg=nvjpeg"],
    ]  # fmt: skip
    assert len({print_of(*overrides) for overrides in same}) == 1
    if find_spec("openvino"):
        same = [["runnable=openvino", *cache] for cache in ([], ["runnable.cache=a"])]
        assert len({print_of(*overrides) for overrides in same}) == 1
    assert len({print_of(*overrides) for overrides in [[], *other]}) == 1 + len(other)
