"""``runner=rerun``: which recorded options stay, and how paths are understood."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import yaml
from finished_run import write_run

from pipeline.errors import ConfigError
from runners.command_line import hydra_arguments
from runners.rerun import expand_rerun


def make_run(folder: Path, *overrides: str, cwd: Path | None = None) -> Path:
    run = write_run(folder / "run", cwd=str(cwd or Path.cwd()))
    (run / ".hydra").mkdir()
    task = [each for each in hydra_arguments(overrides) if not each.startswith("hydra.")]
    (run / ".hydra/overrides.yaml").write_text(yaml.safe_dump(task))
    sources = [{"path": "/x/conf", "provider": "main"}, {"path": "/y", "provider": "command-line"}]
    hydra = {"runtime": {"config_sources": sources}, "job": {"config_name": "night"}}
    (run / ".hydra/hydra.yaml").write_text(yaml.safe_dump(hydra))
    return run


def expanded(run: Path, *arguments: str) -> Namespace:
    given = hydra_arguments(["runner=rerun", f"runner.run={run}", "output=again", *arguments])
    return expand_rerun(Namespace(overrides=given, config_dir=None, config_name=None))


def kept(run: Path, *arguments: str) -> list[str]:
    """Return what comes before the output, which is the first option of the command line."""
    overrides: list[str] = expanded(run, *arguments).overrides
    return overrides[: overrides.index("hydra.run.dir=again" if "hydra.run.dir=again" in overrides
                                       else 'hydra.run.dir="again"')]  # fmt: skip


def test_another_command_line_stays() -> None:
    line = Namespace(overrides=["runner=batch", "model=shapes"], config_dir=None)
    assert expand_rerun(line) is line


def test_recorded_options_come_first(tmp_path: Path) -> None:
    run = make_run(tmp_path, "model=shapes", "input=/in", "output=night", "runner.prune=true",
                   "runner=batch", "seed=3")  # fmt: skip
    line = expanded(run, "runner.max_failures=5")
    assert line.overrides[:3] == ["model=shapes", "input=/in", "seed=3"]
    assert line.overrides[-1] == "runner.max_failures=5"
    assert not any("rerun" in each or "runner.run" in each for each in line.overrides)
    assert (line.config_dir, line.config_name) == ("/y", "night")


def test_given_options_replace_recorded_ones(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, "model=stored", "model.tag=x", "stage=[min_score,nms]", "seed=3",
        "stage.min_score.threshold=0.7", "stage.nms.iou_threshold=0.4",
    )  # fmt: skip
    assert kept(run, "seed=4") == [
        "model=stored", "model.tag=x", "stage=[min_score,nms]",
        "stage.min_score.threshold=0.7", "stage.nms.iou_threshold=0.4",
    ]  # fmt: skip
    assert kept(run, "model=shapes", "stage=[min_score]") == [
        "seed=3", "stage.min_score.threshold=0.7"
    ]  # fmt: skip


def test_permissions_are_not_taken_from_a_file(tmp_path: Path) -> None:
    run = make_run(tmp_path, "trusted_packages=[os]", "model.trust=true", "model=shapes")
    assert kept(run) == ["model=shapes"]


def test_relative_paths_of_another_directory(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").touch()
    (tmp_path / "shapes").mkdir()
    run = make_run(
        tmp_path, "model=shapes", "input=[in,/abs,a b]", "model.weights=weights.pth",
        "model.config=zoo.yaml", cwd=tmp_path,
    )  # fmt: skip
    model, inputs, weights, config = kept(run)
    assert model == "model=shapes"
    assert inputs == f'input=["{tmp_path}/in","/abs","{tmp_path}/a b"]'
    assert weights == f'model.weights="{tmp_path}/weights.pth"'
    assert config in ("model.config=zoo.yaml", 'model.config="zoo.yaml"')


def test_what_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, "model=shapes", "sink.webhook.url=***")
    with pytest.raises(ConfigError, match=r"sink\.webhook\.url, which is secret"):
        expanded(run)
    assert kept(run, "sink.webhook.url=http://127.0.0.1") == ["model=shapes"]
    for arguments, problem in (
        (["runner=rerun"], r"add runner\.run=DIR"),
        (["runner=rerun", f"runner.run={run}"], "add output=DIR"),
        (["runner=rerun", f"runner.run={tmp_path}/none", "output=x"], "no run in"),
    ):
        line = Namespace(overrides=hydra_arguments(arguments), config_dir=None, config_name=None)
        with pytest.raises(ConfigError, match=problem):
            expand_rerun(line)
    (run / ".hydra/overrides.yaml").unlink()
    with pytest.raises(ConfigError, match="does not record its options"):
        expanded(run)
