"""What a folder of the user's may and may not do to the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import version
from hydra.types import RunMode
from omegaconf import DictConfig

from pipeline.config.loader import Loader
from pipeline.errors import ConfigError

CONF = Path(__file__).resolve().parents[3] / "conf"
GIVEN = "hydra.*, trusted_packages and model.trust can only be set on the command line"


@pytest.fixture(autouse=True)
def base() -> None:
    version.setbase("1.3")


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def load(folder: Path, *overrides: str, name: str = "config") -> DictConfig:
    return Loader(CONF, str(folder)).load_configuration(name, list(overrides), RunMode.RUN)


PRESET = "defaults: [config, _self_]\n"
GLOBAL = "# @package _global_\n"
CALLS = "{x: {_target_: os.system, command: 'touch {folder}/ran'}}"

# files, arguments, what of the command line's own is set
FORBIDDEN: list[Any] = [
    pytest.param({"p": PRESET + f"hydra: {{callbacks: {CALLS}}}"}, "p",
                 "hydra.callbacks.x._target_", id="callbacks"),
    pytest.param({"stage/p": GLOBAL + f"hydra: {{callbacks: {CALLS}}}"}, "stage=[p]",
                 "hydra.callbacks.x._target_", id="callbacks by an option"),
    pytest.param({"stage/p": f"# @package hydra.callbacks\n{CALLS}"}, "stage=[p]",
                 "hydra.callbacks.x._target_", id="callbacks by a package"),
    pytest.param({"p": "defaults: [config, stage@hydra.callbacks: q, _self_]\n",
                  "stage/q": CALLS}, "p", "hydra.callbacks.x._target_",
                 id="callbacks by a default"),
    pytest.param({"hydra/callbacks/q": CALLS,
                  "p": "defaults: [config, override hydra/callbacks: q, _self_]\n"}, "p",
                 "hydra.callbacks.x._target_", id="callbacks by an override"),
    pytest.param({"sink/p": GLOBAL + "hydra: {job: {env_set: {PATH: /x}}}"}, "sink=[p]",
                 "hydra.job.env_set.PATH", id="env_set"),
    pytest.param({"p": PRESET + "hydra: {job: {chdir: true}}"}, "p", "hydra.job.chdir", id="chdir"),
    pytest.param({"p": PRESET + "hydra: {job_logging: {handlers: {x: {(): os.getcwd}}}}"}, "p",
                 "hydra.job_logging.handlers", id="job_logging"),
    pytest.param({"p": PRESET + "hydra: {hydra_logging: {root: {level: INFO}}}"}, "p",
                 "hydra.hydra_logging.root.level", id="hydra_logging"),
    pytest.param({"p": "defaults: [config, override hydra/job_logging: stdout, _self_]\n"}, "p",
                 "hydra.job_logging", id="another job_logging"),
    pytest.param({"p": PRESET + "hydra: {launcher: {_target_: os.system}}"}, "p",
                 "hydra.launcher._target_", id="launcher"),
    pytest.param({"p": PRESET + "hydra: {sweeper: {_target_: os.system}}"}, "p",
                 "hydra.sweeper._target_", id="sweeper"),
    pytest.param({"p": PRESET + "hydra: {run: {dir: /x}}"}, "p", "hydra.run.dir", id="run.dir"),
    pytest.param({"p": PRESET + "hydra: {output_subdir: x}"}, "p", "hydra.output_subdir",
                 id="output_subdir"),
    pytest.param({"p": PRESET + "hydra: {verbose: true}"}, "p", "hydra.verbose", id="verbose"),
    pytest.param({"p": PRESET + "trusted_packages: [os]"}, "p", "trusted_packages", id="trust"),
    pytest.param({"p": PRESET + "trusted_packages: ${model.opts}\nmodel: {opts: [os]}"}, "p",
                 "trusted_packages", id="trust by an interpolation"),
    pytest.param({"p": PRESET + "model: {trust: true}"}, "p", "model.trust", id="model.trust"),
    pytest.param({"model/p": "name: p\ntag: x\ntrust: true"}, "model=p", "model.trust",
                 id="model.trust by an option"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "argument", "key"), FORBIDDEN)
def test_what_only_the_command_line_may_set(
    tmp_path: Path, files: dict[str, str], argument: str, key: str
) -> None:
    write(tmp_path, {name: text.replace("{folder}", str(tmp_path)) for name, text in files.items()})
    overrides, name = ([argument], "config") if "=" in argument else ([], argument)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, *overrides, name=name)
    assert str(caught.value).startswith(f"a configuration file sets {key}")
    assert GIVEN in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_the_command_line_may(tmp_path: Path) -> None:
    write(tmp_path, {"p": PRESET + "seed: 3"})
    cfg = load(tmp_path, "trusted_packages=[mine]", "model.trust=true", "hydra.run.dir=x",
               "+hydra.job.env_set.A=b", "hydra.verbose=true", name="p")  # fmt: skip
    assert (cfg.seed, cfg.trusted_packages, cfg.model.trust) == (3, ["mine"], True)
    assert (cfg.hydra.run.dir, cfg.hydra.job.env_set) == ("x", {"A": "b"})


@pytest.mark.parametrize(
    "override",
    [
        "+hydra.callbacks.x={_target_:os.system}", "hydra/callbacks=x", "hydra.callbacks={a:{}}",
        "hydra.launcher._target_=os.system", "hydra.sweeper={_target_:os.system}",
        "hydra.launcher={a:[{_target_:x}]}", "+hydra.job_logging.handlers.x.class=os.system",
        "+hydra.job_logging.handlers={x:{class:os.system}}",
        "+hydra.job_logging.handlers.x.stream=ext://os",
    ],
)  # fmt: skip
def test_nor_the_command_line_names_code_for_hydra(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=r"d2run does not run code named in hydra\.\*"):
        load(tmp_path, override)


def test_a_searchpath_of_a_file_is_not_searched(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text(f"open('{tmp_path}/ran', 'w')")
    write(tmp_path, {"p": PRESET + "hydra: {searchpath: ['pkg://package']}"})
    with pytest.raises(ConfigError, match=r"sets hydra\.searchpath to .*; add a directory with"):
        load(tmp_path, name="p")
    assert not (tmp_path / "ran").exists()


def test_a_searchpath_of_the_command_line_is_checked_like_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "more", {"stage/p": GLOBAL + "hydra: {job: {chdir: true}}",
                              "stage/q": "q: {_target_: mine.Q}"})  # fmt: skip
    path = f"hydra.searchpath=[file://{tmp_path}/more]"
    assert load(tmp_path, path, "stage=[q]").stage.q._target_ == "mine.Q"
    with pytest.raises(ConfigError, match=r"sets hydra\.job\.chdir"):
        load(tmp_path, path, "stage=[p]")
    with pytest.raises(ConfigError, match="no such directory: /nope"):
        load(tmp_path, "hydra.searchpath=[file:///nope]")


def test_an_option_for_hydra_is_not_taken_from_the_folder(tmp_path: Path) -> None:
    write(tmp_path, {"hydra/launcher/mine": "_target_: os.system"})
    with pytest.raises(ConfigError, match="hydra/launcher=mine: no such option; known: basic"):
        load(tmp_path, "hydra/launcher=mine")


@pytest.mark.parametrize("name", ["../outside", "/{folder}/outside"])
def test_a_file_outside_of_the_folder_is_foreign_too(tmp_path: Path, name: str) -> None:
    default = name.format(folder=tmp_path)
    write(tmp_path, {"outside": "hydra: {job: {chdir: true}}",
                     "in/p": f"defaults: [config, {default}@_global_, _self_]"})  # fmt: skip
    with pytest.raises(ConfigError, match=r"sets hydra\.job\.chdir"):
        load(tmp_path / "in", name="p")


BROKEN = [
    ({"p": PRESET + "seed: [1\nexif: 2"}, "p", "{folder}/p.yaml, line 3: "),
    ({"p": PRESET + "seed: 1\nseed: 2"}, "p", "{folder}/p.yaml, line 3: found duplicate key seed"),
    ({"p": PRESET + "seed: \x01"}, "p", "a character that YAML does not allow"),
    ({"stage/p": "a: b: c"}, "stage=[p]", "{folder}/stage/p.yaml, line 1: "),
    ({"p": "defaults: {a: b}"}, "p", "cannot read p.yaml: Invalid defaults list in 'p'"),
    ({"p": "seed: 3"}, "p", "--config-name p: its defaults must start with '- config'"),
    ({"p": "[1, 2]"}, "p", "--config-name p: its defaults must start with '- config'"),
    ({"p": PRESET + "treshold: 3"}, "p",
     "no option 'treshold'; did you mean 'stage.min_score.threshold' or "
     "'stage.min_score.thresholds'?"),
    ({"p": PRESET + "model: {weight: 3}"}, "p",
     "no option 'model.weight'; did you mean 'model.weights'?"),
    ({"p": PRESET + "stage: {min_score: {treshold: 3}}"}, "p",
     "no option 'stage.min_score.treshold'; did you mean 'stage.min_score.threshold' or "
     "'stage.min_score.thresholds'?"),
    ({"p": PRESET + "stage: {nms: {iou_threshold: 3}}"}, "p",
     "stage.nms.iou_threshold: the stage nms is not selected; add it: 'stage=[min_score,nms]'"),
    ({"p": PRESET + "exif: perhaps"}, "p", "exif: expected true or false, got 'perhaps'"),
    ({"p": "defaults: [config, override model: shaps, _self_]"}, "p",
     "model=shaps: no such option; did you mean 'shapes'?"),
    ({"runner/p": "defaults: [batch, _self_]\nmax_failure: 3"}, "runner=p",
     "no option 'runner.max_failure'; did you mean 'runner.max_failures'?"),
    ({"stage/mine": "mine: {_target_: m.M}"}, "stage=[mien]",
     "stage=mien: no such option; did you mean 'mine'?"),
    ({"stage/mine": "mine: {_target_: m.M, size: 3}"}, "stage.mine.size=4",
     "stage.mine.size: the stage mine is not selected; add it: 'stage=[min_score,mine]'"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "argument", "says"), BROKEN)
def test_a_file_that_is_wrong(
    tmp_path: Path, files: dict[str, str], argument: str, says: str
) -> None:
    write(tmp_path, files)
    overrides, name = ([argument], "config") if "=" in argument else ([], argument)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, *overrides, name=name)
    assert says.format(folder=tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes(b"seed: \xff")
    with pytest.raises(ConfigError, match=r"cannot read p\.yaml: it is not UTF-8"):
        load(tmp_path, name="p")


def test_presets_build_on_presets(tmp_path: Path) -> None:
    write(tmp_path, {"p": PRESET + "seed: 3", "q": "defaults: [p, _self_]\nqueue_mb: 9"})
    cfg = load(tmp_path, name="q")
    assert (cfg.seed, cfg.queue_mb) == (3, 9)


def test_nobody_needs_a_plus(tmp_path: Path) -> None:
    given = ["runnable=fake", "runnable.max_instances=3", "model.labels={team: vision}",
             "model.labels.site=a", "model.metadata={a: {b: [1]}}", "+seed=4"]  # fmt: skip
    cfg = load(tmp_path, *given)
    assert (cfg.runnable.max_instances, cfg.seed) == (3, 4)
    assert cfg.model.labels == {"team": "vision", "site": "a"}
    assert cfg.hydra.overrides.task == given
