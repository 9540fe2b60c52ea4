"""The benchmarks run end to end, and what they save holds what it should; no time is judged."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"D2RUN_HOME": str(folder / "home"), "TMPDIR": str(folder)}


def report(tmp_path: Path, script: str, *arguments: str) -> dict[str, Any]:
    saved = tmp_path / "report.json"
    command = [sys.executable, str(BENCHMARKS / script), *arguments, "--json", str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.glob("d2run-bench-*"))
    found: dict[str, Any] = json.loads(saved.read_text())
    assert found["machine"]["cores"] >= 1
    return found


def assert_spread(value: dict[str, float]) -> None:
    assert 0 < value["min"] <= value["median"] <= value["max"]


@pytest.mark.detectron2
@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "whole",
    [
        pytest.param(False, id="naive"),  # three processes that import torch
        pytest.param(True, id="all"),  # six
    ],
)
def test_compare(tmp_path: Path, whole: bool) -> None:
    arguments = ["--case", "shapes", "--images", "2", "--pairs", "1", "--device", "cpu"]
    if not whole:
        arguments += ["--peers", "naive", "--no-floor"]
    found = report(tmp_path, "compare.py", *arguments, "--variant", "runnable=exact")
    case = found["cases"]["shapes"]
    name = "d2run runnable=exact"
    peers = {"predictor", "forward", f"floor of {name}"} if whole else set()
    peers |= {"naive", name}
    assert set(case["contenders"]) == peers
    for contender in case["contenders"].values():
        assert all(value[0] > 0 for value in contender.values())
        assert {len(value) for value in contender.values()} == {1}
    variant = case["variants"][name]
    for key in ("naive", "predictor", "busy", "forward_share") if whole else ("naive",):
        assert_spread(variant[key])
    assert variant["agreement"]["line"] == "exact"
    assert variant["agreement"]["detections"] > 0
    assert variant["agreement"]["paired"] == variant["agreement"]["same_masks"] == 1
    assert variant["agreement"]["holds"]


def test_an_interrupted_comparison_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "compare.py"), "--case", "shapes"]
    with subprocess.Popen(command, env=environment(tmp_path), stderr=subprocess.DEVNULL) as bench:
        until = monotonic() + 60
        while not list(tmp_path.glob("d2run-bench-*/log")) and monotonic() < until:
            sleep(0.05)
        bench.send_signal(signal.SIGINT)
    assert bench.returncode == 130
    assert not list(tmp_path.glob("d2run-bench-*"))


def test_engine(tmp_path: Path) -> None:
    found = report(tmp_path, "engine.py", "--frames", "20", "--runs", "1")
    assert found["frames"] == 20
    for value in found["results"].values():
        assert_spread(value)


def test_memory(tmp_path: Path) -> None:
    found = report(tmp_path, "engine.py", "--frames", "20", "--memory")
    first, last = found["resident_mb"]
    assert found["growth_mb"] == last - first


@pytest.mark.nightly  # starts Ray
@pytest.mark.timeout(300)
def test_actors(tmp_path: Path) -> None:
    few = ["--workers", "1", "2", "--seconds", "1", "--sleep", "0.02", "--images", "50"]
    found = report(tmp_path, "actors.py", *few)
    assert [each["images"] for each in found["workers"].values()] == [50, 100]
    assert all(0 < each["busy"] <= 1 for each in found["workers"].values())
    assert found["driver_ms"] > 0


@pytest.mark.detectron2
@pytest.mark.nightly
def test_masks(tmp_path: Path) -> None:
    found = report(tmp_path, "masks.py", "--masks", "3", "--drawn", "2", "--pairs", "1")
    assert len(found["results"]) == 4
    for value in found["results"].values():
        assert_spread(value["ratio"])


def test_evaluate(tmp_path: Path) -> None:
    found = report(tmp_path, "evaluate.py", "--images", "12")["results"]
    assert found["equal"]
    assert found["images"] == 12
    assert 0 < found["mask_ap"] < 1


@pytest.fixture
def agreement() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("agreement")


def instance(box: list[float], score: float = 0.9, class_id: int = 1, mask: str = "a") -> Any:
    return {"box": box, "score": score, "class_id": class_id, "mask": {"counts": mask}}


BOX = [10.0, 10.0, 50.0, 50.0]


@pytest.mark.parametrize(
    ("ours", "holds"),
    [
        pytest.param([instance(BOX)], {"exact", "fp32", "half"}, id="same"),
        pytest.param([instance(BOX, mask="b")], {"fp32", "half"}, id="another mask"),
        pytest.param([instance([10.04, *BOX[1:]])], {"fp32", "half"}, id="a little off"),
        pytest.param([instance([10.5, *BOX[1:]])], {"half"}, id="half a pixel off"),
        pytest.param([instance(BOX, 0.91)], {"half"}, id="another score"),
        pytest.param([instance(BOX, class_id=2)], set(), id="another class"),
        pytest.param([], set(), id="none"),
        pytest.param([instance(BOX), instance([0, 0, 5, 5])], set(), id="one too many"),
        pytest.param(
            [instance(BOX), instance([0, 0, 5, 5], 0.04)], {"exact", "fp32", "half"}, id="too low"
        ),
    ],
)
def test_agreement(agreement: ModuleType, ours: list[Any], holds: set[str]) -> None:
    want = {"x.jpg": [instance(BOX)]}
    found = {
        line for line in agreement.LINES if agreement.compare({"x.jpg": ours}, want, line).holds
    }
    assert found == holds


@pytest.mark.parametrize(
    ("n", "missing", "holds"),
    [
        (99, 1, set()),
        (100, 1, {"fp32", "half"}),
        (400, 1, {"fp32", "half"}),
        (400, 2, {"half"}),
        (2000, 2, {"fp32", "half"}),
        (2000, 3, {"half"}),
    ],
)
def test_one_in_a_thousand_may_be_among_a_few_hundred(
    agreement: ModuleType, n: int, missing: int, holds: set[str]
) -> None:
    want = [instance([10.0 * i, 0.0, 10.0 * i + 9, 9.0]) for i in range(n)]
    ours = {"x.jpg": want[missing:]}
    found = {
        line for line in agreement.LINES if agreement.compare(ours, {"x.jpg": want}, line).holds
    }
    assert found == holds


@pytest.mark.parametrize(
    ("runnable", "line"),
    [
        pytest.param({}, "fp32", id="default"),
        pytest.param({"exact": True, "precision": "fp32"}, "exact", id="exact"),
        pytest.param({"exact": False, "precision": "bf16"}, "half", id="bf16"),
        pytest.param({"resize_on_device": True}, "half", id="other pixels"),
    ],
)
def test_a_run_says_which_line_it_is_held_to(
    agreement: ModuleType, runnable: dict[str, Any], line: str
) -> None:
    config = {"runnable": runnable, "decode": {"jpeg": "pillow"}}
    assert agreement.line_of({"config": config}) == line
    config["decode"]["jpeg"] = "nvjpeg"
    assert agreement.line_of({"config": config}) == "half"


def test_results_that_differ_are_shown_and_the_comparison_goes_on(
    agreement: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = importlib.import_module("bench")
    compare = importlib.import_module("compare")
    (tmp_path / "naive").mkdir()
    (tmp_path / "naive/results.json").write_text(json.dumps([instance(BOX) | {"image": "x"}]))
    found = {"runnable=exact": [instance(BOX)], "batch_size=2": []}

    class Scripted(bench.Bench):  # type: ignore[misc, name-defined]
        def _process(self, name: str, command: list[str], output: Path) -> Any:
            if name.endswith("device=none"):
                raise bench.Failed("out of memory")
            output.mkdir(exist_ok=True)
            instances = found.get(name.removeprefix("d2run "), [])
            frame = {"asset": "x", "instances": instances}
            (output / "predictions.jsonl").write_text(json.dumps(frame))
            config = {"runnable": {"exact": "exact" in name}}
            seconds = {"wall": 2.0, "forward": 1.0}
            run = bench.Run({"config": config, "seconds": seconds}, 3.0, 100.0)
            self.measured[name].add(run, 1)
            return run

    monkeypatch.setattr(bench, "write_case", lambda *_: None)
    variants = [["runnable=exact"], ["batch_size=2"], ["device=none"]]
    runs = Scripted("r50", tmp_path, "cpu", 1, variants, ("naive",), floors=False)
    seen: list[int] = []
    runs.run(2, lambda runs: seen.append(len(compare.summary(runs)["variants"])))
    summary = compare.summary(runs)
    holds = {name: each["agreement"]["holds"] for name, each in summary["variants"].items()}
    assert holds == {"d2run runnable=exact": True, "d2run batch_size=2": False}
    assert summary["failures"] == {"d2run device=none": "out of memory"}
    assert summary["variants"]["d2run runnable=exact"]["naive"]["median"] == 1
    assert not runs.holds
    assert seen == [1, 2, 2, 2, 2]  # what failed is not tried again
    compare.show("r50", summary)


@pytest.mark.parametrize(
    ("script", "arguments", "told"),
    [
        ("compare.py", ["--json", "/nowhere/x.json"], "--json: cannot write /nowhere/x.json"),
        ("compare.py", ["--pairs", "0"], "--pairs: invalid at_least_one value: '0'"),
        ("compare.py", ["--images", "-1"], "--images: invalid at_least_one value: '-1'"),
        ("compare.py", ["--device", "cuda:99"], "device 'cuda:99' does not exist"),
        ("compare.py", ["--peers", "forward"], "--peers needs naive"),
        ("engine.py", ["--frames", "0"], "--frames: invalid at_least_one value: '0'"),
        pytest.param(  # imports matplotlib
            "masks.py", ["--json", str(BENCHMARKS)], "--json: cannot write",
            marks=pytest.mark.nightly,
        ),
    ],
)  # fmt: skip
def test_wrong_arguments_are_told_at_once(script: str, arguments: list[str], told: str) -> None:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.detectron2
@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_serve(tmp_path: Path) -> None:
    arguments = ["--case", "shapes", "--images", "2", "--requests", "4", "--rounds", "1"]
    found = report(tmp_path, "serve.py", *arguments, "--clients", "1", "2")
    case = found["cases"]["shapes"]
    assert set(case["services"]) == {"d2run", "fastapi", "bentoml"}
    for figures in case["services"].values():
        assert all(figures[n][0]["per_s"] > 0 for n in ("1", "2"))
    assert case["services"]["d2run"]["agreement"]["detections"] > 0
    assert case["services"]["d2run"]["agreement"]["holds"]
    assert case["floor_per_s"][0] > 0
