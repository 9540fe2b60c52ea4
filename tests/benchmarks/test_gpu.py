"""The GPU benchmark without a GPU: its report, and that a bad step costs only itself."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROW = "import json, sys; open(sys.argv[1], 'a').write(json.dumps({'x': 1.5}) + '\\n');"


@pytest.fixture
def gpu() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("gpu")


def step(gpu: ModuleType, name: str, code: str, limit_s: float = 60, **options: Any) -> Any:
    # "{rows}" is the file; other braces of the code must not be formatted
    code = (ROW + code).replace("{", "{{").replace("}", "}}")
    return gpu.Step(name, [sys.executable, "-S", "-c", code, "{rows}"], limit_s, **options)


def test_a_step_that_fails_or_hangs_costs_only_itself(gpu: ModuleType, tmp_path: Path) -> None:
    child = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', 'while True: pass'])"
    todo = [
        step(gpu, "good", ""),
        step(gpu, "raises", "raise ValueError('broken')"),
        step(gpu, "exits", "print('told'); sys.exit(3)"),
        step(gpu, "dies", "import os; os.kill(os.getpid(), 9)"),
        step(gpu, "hangs", child, limit_s=3),
        step(gpu, "cuda only", "", needs_cuda=True),
        step(gpu, "last", ""),
    ]
    assert not gpu.run(todo, "cpu", tmp_path, tmp_path, seconds=300)
    assert [(each.status, each.message) for each in todo] == [
        ("done", ""),
        ("failed", "status 1: ValueError: broken"),
        ("failed", "status 3: told"),
        ("failed", "status -9: no output"),
        ("timed out", "after 3 s"),
        ("skipped", "needs a CUDA device"),
        ("done", ""),
    ]
    assert [each.rows for each in todo] == [[{"x": 1.5}]] * 5 + [[]] + [[{"x": 1.5}]]
    saved = json.loads((tmp_path / "gpu.json").read_text())
    assert [each["status"] for each in saved["steps"]] == [each.status for each in todo]
    shown = (tmp_path / "gpu.txt").read_text()
    assert "cuda only  skipped" in shown
    assert "needs a CUDA device" in shown


def test_no_step_starts_without_time(gpu: ModuleType, tmp_path: Path) -> None:
    todo = [step(gpu, "late", "")]
    assert not gpu.run(todo, "cpu", tmp_path, tmp_path, seconds=0.5)
    assert (todo[0].status, todo[0].message, todo[0].rows) == ("not run", "no time left", [])


def test_the_time_limits_fit_into_eight_minutes(gpu: ModuleType, tmp_path: Path) -> None:
    todo = gpu.steps("cuda:0", tmp_path)
    # a step seldom needs its limit; what is late gets the seconds that are left
    assert sum(each.limit_s for each in todo[:6]) <= 400
    variants = [part for each in todo for part in each.command if part.startswith("--variant=")]
    for precision in ("fp32", "bf16", "fp16"):
        for size in (1, 8, 16):
            plain = f"--variant=runnable.precision={precision} batch_size={size}"
            there = " decode.jpeg=nvjpeg runnable.resize_on_device=true"
            assert {plain, plain + there} <= set(variants)


def job(variant: str, speed: float) -> dict[str, Any]:
    return {"variant": variant, "images/s": speed}


@pytest.mark.parametrize(
    ("jobs", "floors", "results"),
    [
        pytest.param([], [], ["not measured"] * 4, id="nothing"),
        pytest.param(
            [
                job("naive", 10.0),
                job("runnable=exact", 60.0),
                job("runnable.precision=fp32 batch_size=8", 80.0),
                job("runnable.precision=bf16 batch_size=8", 110.0),
            ],
            [
                {"precision": "bf16", "batch": 1, "images/s": 60.0},
                {"precision": "bf16", "batch": 8, "images/s": 120.0},
            ],
            ["met"] * 4,
            id="met",
        ),
        pytest.param(
            [
                job("naive", 20.0),
                job("runnable=exact", 57.9),
                job("runnable.precision=fp16 batch_size=8", 99.0),
                {"variant": "runnable.precision=bf16 batch_size=8", "failed": "out of memory"},
            ],
            [{"precision": "fp16", "batch": 8, "images/s": 150.0}],
            ["MISSED"] * 4,
            id="missed",
        ),
    ],
)
def test_goals(gpu: ModuleType, jobs: list[Any], floors: list[Any], results: list[str]) -> None:
    judged = gpu.goals({"full jobs": jobs, "forward alone": floors})
    assert [row["result"] for row in judged] == results


def test_rows_of_pytest_and_of_compare(gpu: ModuleType, tmp_path: Path) -> None:
    log, rows = tmp_path / "log", tmp_path / "rows"
    log.write_text(
        "tests/detectron2/test_gpu.py::test_exact[retinanet] PASSED   [ 10%]\n"
        "tests/detectron2/test_gpu.py::test_memory FAILED   [ 20%]\ntests/x.py::test_hangs "
    )
    assert list(gpu.read_rows(rows, log)) == [
        {"test": "test_exact[retinanet]", "outcome": "passed"},
        {"test": "test_memory", "outcome": "failed"},
    ]
    variant = {"naive": {"median": 5.0}, "agreement": {"paired": 0.5, "holds": False}}
    measured = {"s_per_image": [0.01], "peak_mb": [900.0]}
    case = {
        "variants": {"d2run batch_size=8": variant},
        "contenders": {"d2run batch_size=8": measured},
        "failures": {"d2run runnable=bf16": "Traceback\nRuntimeError: no kernel"},
    }
    rows.write_text(json.dumps({"cases": {"r50": case}}))
    good, bad = gpu.read_rows(rows, log)
    assert (good["variant"], good["images/s"], good["results"]) == ("batch_size=8", 100, "DIFFER")
    assert bad["results"] == "RuntimeError: no kernel"


def test_table(gpu: ModuleType) -> None:
    rows = [{"variant": "exact", "images/s": 58.123}, {"variant": "bf16", "failed": "no memory"}]
    assert gpu.table("jobs", rows).splitlines() == [
        "jobs",
        "----",
        "variant  images/s  failed",
        "exact    58.12",
        "bf16               no memory",
    ]


@pytest.mark.nightly
@pytest.mark.detectron2
@pytest.mark.timeout(3600)
def test_all_steps_on_the_cpu(tmp_path: Path) -> None:
    out = tmp_path / "report"
    command = ["bash", str(BENCHMARKS / "gpu.sh"), "--device", "cpu", "--minutes", "55"]
    done = subprocess.run(
        [*command, "--out", str(out)],
        env=os.environ | {"PYTHON": sys.executable, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((out / "gpu.json").read_text())
    steps = {step["name"]: step for step in found["steps"]}
    skipped = {name for name, step in steps.items() if step["status"] == "skipped"}
    assert skipped == {"tests", "compare r50", "test of torch.compile"}
    families = steps["parity"]["rows"]
    assert [row["family"] for row in families] == ["mask_rcnn", "retinanet"]
    assert {row["exact"] for row in families} == {1.0}
    assert min(row["default, IoU 0.95"] for row in families) > 0.9
    for name in ("forward alone", "full jobs", "compare shapes"):
        assert all(row["images/s"] > 0 for row in steps[name]["rows"])
    assert {row["results"] for row in steps["compare shapes"]["rows"]} == {"agree"}
    assert "needs a CUDA device" in (out / "gpu.txt").read_text()
    assert not list(tmp_path.glob("d2run-bench-*"))
