"""The model skips what the leading stages drop, and results do not change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from journals import run_into

from pipeline.config.build import build_job, pushdown_arguments
from pipeline.job import Job
from pipeline.protocols import Pushdown
from pipeline.records import Frame, Predictions, Result
from pipeline.runnables.fake import FakeRunnable
from pipeline.stages.keep_classes import KeepClasses
from pipeline.stages.min_area import MinArea
from pipeline.stages.min_score import MinScore
from pipeline.stages.nms import Nms
from pipeline.stages.top_k import TopK
from pipeline.testing import make_frame

ROOT = Path(__file__).resolve().parents[3]
MODULE = __name__  # where Hydra finds the classes below


class Spy(FakeRunnable):
    """Counts the instances that it returns."""

    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        found = super().predict(frames)
        self.found = getattr(self, "found", 0) + sum(map(len, found))
        return found


class TakesMaxInstances:
    def __init__(self, model: Any, device: str, max_instances: int | None = None) -> None:
        pass


class Filters:
    """A custom stage that declares what it drops."""

    def pushdown(self) -> Pushdown:
        return Pushdown(min_score=0.7, max_instances=2)

    def __call__(self, result: Result) -> Result:
        found = result.predictions
        return result.replace(found[found.scores >= 0.7][:2])


SCORE, BEST, A_B = MinScore(0.5), TopK(20), KeepClasses(["a", "b"])
FEW_OF_A_B = {"min_score": 0.5, "classes": ["a", "b"], "max_instances": 20}
FAKE = {"_target_": "pipeline.runnables.fake.FakeRunnable"}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("D2RUN_HOME", str(tmp_path / "home"))

    def built(*overrides: str) -> Job:
        base = ["model=shapes", f"output={tmp_path}/run", "sink=[]", "runnable=fake"]
        base += [f"runnable._target_={MODULE}.Spy"]
        trusted = "trusted_packages=[pipeline,runners,tests]"
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return build_job(compose("config", [*base, trusted, *overrides]))

    return built


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        pytest.param([], {}, id="no stage"),
        pytest.param([SCORE], {"min_score": 0.5}, id="threshold"),
        pytest.param([BEST], {"max_instances": 20}, id="limit"),
        pytest.param(
            [SCORE, BEST], {"min_score": 0.5, "max_instances": 20}, id="threshold and limit"
        ),
        pytest.param([SCORE, MinScore(0.6)], {"min_score": 0.6}, id="the higher of two"),
        pytest.param([MinScore(0.6), SCORE], {"min_score": 0.6}, id="the first is higher"),
        pytest.param([MinScore(0.5, {"a": 0.3})], {"min_score": 0.3}, id="threshold per class"),
        pytest.param(
            [MinScore(0.5, {"a": 0.9}), BEST], {"min_score": 0.5}, id="a limit after those"
        ),
        pytest.param([BEST, SCORE], {"max_instances": 20}, id="a limit is the last"),
        pytest.param([Nms(0.5), SCORE, BEST], {}, id="nms leads"),
        pytest.param([SCORE, Nms(0.5), BEST], {"min_score": 0.5}, id="a limit after nms"),
        pytest.param([SCORE, MinArea(9), BEST], {"min_score": 0.5}, id="after min_area"),
        pytest.param([A_B], {"classes": ["a", "b"]}, id="classes"),
        pytest.param([A_B, KeepClasses(["c", "b"])], {"classes": ["b"]}, id="classes of both"),
        pytest.param([SCORE, A_B, BEST], FEW_OF_A_B, id="all three"),
        pytest.param([A_B, SCORE, BEST], FEW_OF_A_B, id="classes lead"),
        pytest.param([BEST, A_B], {"max_instances": 20}, id="classes after a limit"),
        pytest.param([Nms(0.5), A_B], {}, id="classes after nms"),
        pytest.param([lambda result: result, SCORE], {}, id="a function leads"),
        pytest.param(
            [Filters(), SCORE], {"min_score": 0.7, "max_instances": 2}, id="a custom stage"
        ),
    ],
)
def test_arguments(stages: list[Any], expected: dict[str, Any]) -> None:
    assert pushdown_arguments(stages, FAKE) == expected


@pytest.mark.parametrize(
    ("runnable", "expected"),
    [
        pytest.param(FAKE | {"min_score": 0.2}, {"max_instances": 20}, id="the user's threshold"),
        pytest.param(FAKE | {"max_instances": 50}, {"min_score": 0.5}, id="the user's limit"),
        pytest.param(
            FAKE | {"min_score": 0.0, "max_instances": None},
            {"min_score": 0.5, "max_instances": 20},
            id="defaults are not the user's choice",
        ),
        pytest.param(
            {"_target_": f"{MODULE}.TakesMaxInstances"},
            {"max_instances": 20},
            id="takes one of them",
        ),
        pytest.param({"_target_": f"{MODULE}.Filters"}, {}, id="takes neither"),
    ],
)
def test_arguments_of_the_runnable(runnable: dict[str, Any], expected: dict[str, float]) -> None:
    assert pushdown_arguments([SCORE, BEST], runnable) == expected


@pytest.mark.parametrize(
    "runnable",
    [
        pytest.param(FAKE | {"classes": ["a"]}, id="the user's classes"),
        pytest.param({"_target_": f"{MODULE}.TakesMaxInstances"}, id="does not take classes"),
    ],
)
def test_a_limit_after_classes_that_are_not_pushed_down(runnable: dict[str, Any]) -> None:
    assert pushdown_arguments([A_B, BEST], runnable) == {}


class Still:
    def __init__(self, i: int) -> None:
        self.id, self.path, self.is_still = f"{i}.jpg", Path("x"), True

    def fingerprint(self) -> str:
        return self.id

    def frames(self) -> Any:
        yield make_frame(48, 64, asset_id=self.id, seed=int(self.id[:-4]))


def predicted(directory: Path, runnable: Any, stages: Any) -> bytes:
    with runnable:
        outcomes = run_into(directory, runnable, stages, map(Still, range(20)))
    assert not any(outcome.error for outcome in outcomes)
    return (directory / "predictions.jsonl").read_bytes()


ALL_OF_IT = ["min_score=1e-9", "classes=[circle,square,triangle]", "max_instances=99"]


@pytest.mark.parametrize(
    "stage", ["min_score", "keep_classes", "min_score,top_k", "keep_classes,min_score,top_k"]
)
def test_results_stay_and_fewer_instances_are_computed(
    job: Any, tmp_path: Path, stage: str
) -> None:
    options = ["runnable.n_instances=12", f"stage=[{stage}]"]
    if "min_score" in stage:
        options.append("stage.min_score.threshold=0.75")
    if "keep_classes" in stage:
        options.append("stage.keep_classes.names=[circle,square]")
    if "top_k" in stage:
        options.append("stage.top_k.k=2")
    less, all_of_it = job(*options), job(*options, *(f"+runnable.{each}" for each in ALL_OF_IT))
    assert predicted(tmp_path, less.runnable, less.stages) == predicted(
        tmp_path, all_of_it.runnable, all_of_it.stages
    )
    assert less.runnable.found < all_of_it.runnable.found == 240


def test_numerics_are_part_of_the_fingerprint(job: Any) -> None:
    def print_of(numerics: Any) -> str:
        built = job()
        if numerics is not None:
            built.runnable.numerics = numerics
        return str(built.fingerprint())

    prints = {print_of(n) for n in (None, {"precision": "fp32"}, {"precision": "bf16"})}
    assert len(prints) == 3


def test_what_several_parts_drop() -> None:
    nothing, some = Pushdown(), Pushdown(0.5, ["a", "b"], 5)
    assert nothing.combined(nothing) == nothing
    assert nothing.combined(some) == some.combined(nothing) == some
    both = some.combined(Pushdown(0.3, ["b", "c"], 9))
    assert both == Pushdown(0.5, ["b"], 5)
