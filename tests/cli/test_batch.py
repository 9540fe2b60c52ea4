"""A batch from the command line: outputs, exit statuses, and what a person reads."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import ROOT, Run, command, environment, write_picture

FAKE = ("model=mask_rcnn", "runnable=fake")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_main_job(d2run: Run, photos: Path, tmp_path: Path) -> None:
    done = d2run(*FAKE, f"input={photos}", "output=run")
    out = tmp_path / "cwd" / "run"
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "error: broken.jpg: decode: truncated JPEG (image file is truncated "
        f"({broken_bytes(done.stderr)} bytes not processed))",
        f"error: 1 of 7 inputs failed; see {out}/failures.jsonl",
    ]
    assert "6 done, 1 failed" in done.stdout
    predictions = lines(out / "predictions.jsonl")
    assert [line["asset"] for line in predictions] == [
        "a1.jpg", "a2.jpg", "a10.jpg", "b.png", "sub/b.png", "sub/c.jpg",
    ]  # fmt: skip
    assert [line["image_id"] for line in predictions] == [1, 2, 3, 4, 5, 6]
    assert [line["asset"] for line in lines(out / "failures.jsonl")] == ["broken.jpg"]
    inputs = lines(out / "inputs.jsonl")
    assert [line["outcome"] for line in inputs].count("failed") == 1
    assert all(len(line["sha256"]) == 64 for line in inputs)
    overlays = sorted(p.relative_to(out).as_posix() for p in out.glob("overlay/**/*.jpg"))
    assert "overlay/sub/b.png.jpg" in overlays
    assert len(overlays) == 6
    record = json.loads((out / "run.json").read_text())
    assert record["exit_status"] == 3
    assert record["counts"] == {"done": 6, "failed": 1}
    assert 0 < record["busy"] <= 1
    assert "no model (fake)" in done.stdout
    assert len(record["fingerprint"]) == 64
    assert {p.name for p in (out / ".hydra").iterdir()} == {
        "config.yaml", "hydra.yaml", "overrides.yaml",
    }  # fmt: skip
    assert "Traceback" in (out / "run.log").read_text()
    assert sorted(p.name for p in (tmp_path / "cwd").iterdir()) == ["run"]


def broken_bytes(stderr: str) -> str:
    return stderr.split("truncated (", 1)[1].split(" ", 1)[0]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_coco_loads_in_pycocotools(d2run: Run, photos: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    d2run(*FAKE, f"input={photos}", "output=run")
    coco = COCO(str(tmp_path / "cwd/run/coco.json"))
    assert len(coco.getImgIds()) == 6
    results = coco.loadRes(str(tmp_path / "cwd/run/coco_results.json"))
    assert len(results.getAnnIds()) == len(coco.getAnnIds()) > 0
    for annotation in coco.loadAnns(coco.getAnnIds()):
        assert coco.annToMask(annotation).any()


def test_same_job_twice_gives_the_same_bytes(d2run: Run, photos: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        d2run(*FAKE, f"input={photos}", f"output={name}")
    one, two = tmp_path / "cwd/one", tmp_path / "cwd/two"
    for name in ("predictions.jsonl", "coco.json", "coco_results.json", "failures.jsonl"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    prints = [json.loads((d / "run.json").read_text())["fingerprint"] for d in (one, two)]
    assert prints[0] == prints[1]


def test_defaults_to_a_directory_under_outputs(d2run: Run, photos: Path, tmp_path: Path) -> None:
    done = d2run(*FAKE, f"input={photos / 'b.png'}", "quiet=true")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [p.parent.parent.parent for p in (tmp_path / "cwd").glob("outputs/*/*/run.json")] == [
        tmp_path / "cwd" / "outputs"
    ]


def test_nvjpeg_needs_a_cuda_device(d2run: Run, photos: Path) -> None:
    nvjpeg = (*FAKE, f"input={photos}", "output=run", "decode.jpeg=nvjpeg")
    done = d2run(*nvjpeg, "device=cpu")
    assert done.returncode == 2
    assert done.stderr == "error: decode.jpeg=nvjpeg needs a CUDA device; this job runs on cpu\n"


def test_relative_input_is_relative_to_the_caller(d2run: Run, photos: Path) -> None:
    assert d2run(*FAKE, "input=.", cwd=photos / "sub").returncode == 0


def test_an_empty_folder_is_no_failure(d2run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    # a zoo model whose weights are not there: they are not needed
    done = d2run("model=mask_rcnn", "device=cuda:0", f"input={tmp_path}/empty", "output=run")
    assert done.returncode == 0
    assert done.stderr == f"warning: there is no image in {tmp_path / 'empty'}\n"
    assert (tmp_path / "cwd/run/predictions.jsonl").read_bytes() == b""
    assert json.loads((tmp_path / "cwd/run/coco.json").read_text())["images"] == []


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        pytest.param([], 2, "error: no input: add input=PATH", id="no input"),
        pytest.param(["input=gone"], 2, "no file or directory", id="a path that is not there"),
        pytest.param(
            ["input=.", "model=mask_rcn"], 2, "did you mean 'mask_rcnn'", id="unknown model"
        ),
        pytest.param(["input=.", "stage=[nmss]"], 2, "did you mean 'nms'", id="unknown stage"),
        pytest.param(["input=.", "inptu=x"], 2, "'inptu'", id="unknown option"),
        pytest.param(["input=.", "batch_size=x"], 2, "batch_size", id="wrong type"),
        pytest.param(["input=.", "batch_size=0"], 2, "at least 1", id="wrong value"),
        pytest.param(["input=.", "device=gpu"], 2, "got 'gpu'", id="no device"),
        pytest.param(["input=.", "runner.on_error=x"], 2, "skip or raise", id="wrong choice"),
        pytest.param(
            ["input=.", "stage.min_score.threshold=2"], 2, "stage.min_score.", id="stage refuses"
        ),
        pytest.param(
            ["input=.", "stage=[keep_classes]", "stage.keep_classes.names=[persn]"],
            2,
            "did you mean 'person'",
            id="unknown class",
        ),
        pytest.param(["input=.", "model.weights=gone.pth"], 2, "gone.pth", id="no weights"),
        pytest.param(["input=.", "--nonsense"], 2, "", id="unknown flag"),
        pytest.param(
            ["input=.", "model=stored", "model.tag=shape"], 2, "did you mean", id="unknown tag"
        ),
    ],
)
def test_wrong_configurations(
    d2run: Run, tmp_path: Path, arguments: list[str], status: int, says: str
) -> None:
    done = d2run("model=mask_rcnn", *arguments)
    assert done.returncode == status
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "cwd").iterdir()) == []


def test_a_config_that_would_run_code_is_refused(d2run: Run, tmp_path: Path) -> None:
    evil = tmp_path / "evil.yaml"
    evil.write_text(f"MODEL: !!python/object/apply:os.system ['touch {tmp_path}/ran']\n")
    done = d2run("model=mask_rcnn", f"model.config={evil}", "model.weights=random", "input=.")
    assert done.returncode == 2
    assert "evil.yaml" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.detectron2
def test_a_device_that_is_not_there(d2run: Run, photos: Path, tmp_path: Path) -> None:
    done = d2run("model=shapes", "device=cuda:77", f"input={photos}", "output=run")
    assert done.returncode == 2
    assert done.stderr.startswith("error: device 'cuda:77' does not exist. Available: cpu")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "cwd/run").exists()


def test_all_problems_are_told_at_once(d2run: Run) -> None:
    done = d2run("batch_size=0", "device=gpu", "input=.")
    assert "batch_size" in done.stderr
    assert "'gpu'" in done.stderr


@pytest.mark.parametrize(
    ("options", "status", "left"),
    [
        pytest.param(["runner.max_failures=1"], 4, 3, id="budget"),
        pytest.param(["runner.max_failures=9"], 3, 0, id="within the budget"),
        pytest.param(["runner.on_error=raise"], 1, 4, id="raise"),
    ],
)
def test_the_failure_budget(
    d2run: Run, tmp_path: Path, options: list[str], status: int, left: int
) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.jpg").write_bytes(b"x")
    done = d2run(*FAKE, f"input={folder}", "output=run", *options)
    assert done.returncode == status
    assert len(lines(tmp_path / "cwd/run/inputs.jsonl")) == 5 - left
    assert (f"{left} inputs were not processed" in done.stderr) == bool(left)


AWKWARD = [
    "a,b", "k=v", "(1)", "~x", "#1", "x;y", "a&b", "it's", 'quo"te', "ünï/ö", "日本", "two  words",
    "$x", "back\\slash", "trail\\", "[1].d", "{}", "%s", "-dash", "new\nline", "☃.d", "a:b", "1e5",
    "true", "null", " lead", "tab\there", "!bang", "*", "\\\"", "a\\\"b\\\\",
]  # fmt: skip


@pytest.mark.parametrize("name", [*AWKWARD, "1_000", "0x1f", "007", "1e-3", "nan"])
@pytest.mark.parametrize("parent", ["", "/d/"])
def test_awkward_input_names(parent: str, name: str) -> None:
    from hydra import compose, initialize_config_dir

    from runners.command_line import hydra_arguments

    arguments = hydra_arguments(["model=mask_rcnn", f"input={parent}{name}", f"output=/o/{name}"])
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", arguments, return_hydra_config=True)
    assert cfg.input == f"{parent}{name}"
    assert cfg.output == f"/o/{name}"
    assert cfg.hydra.run.dir == f"/o/{name}"


def test_awkward_names_end_to_end(d2run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "ü, (1)=#~'\""
    names = ["x=1.jpg", "a,b.jpg", "new\nline.jpg", "%s{}.jpg", "日本.jpg", "x.jpg", "x.png"]
    for name in names:
        write_picture(folder / name, np.zeros((20, 20, 3), np.uint8))
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes((folder / "x.jpg").read_bytes())
    done = d2run(*FAKE, f"input={folder}", f"output={tmp_path}/o, (ü)")
    assert done.returncode == 0, done.stderr
    records = lines(tmp_path / "o, (ü)" / "predictions.jsonl")
    assert sorted(r["asset"] for r in records) == sorted([*names, "\\xff.jpg"])
    assert len(list((tmp_path / "o, (ü)" / "overlay").iterdir())) == 8


def test_one_run_at_a_time(d2run: Run, photos: Path, tmp_path: Path) -> None:
    import fcntl

    out = tmp_path / "cwd" / "run"
    out.mkdir()
    (out / "run.json").write_text("of the run under way")
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = d2run(*FAKE, f"input={photos}", "output=run")
    assert done.returncode == 11
    assert done.stderr.startswith("error: another run holds")
    assert (out / "run.json").read_text() == "of the run under way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_rights_to_the_output(d2run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "ro").mkdir(mode=0o555)
    done = d2run(*FAKE, f"input={photos}", f"output={tmp_path}/ro/run")
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write the output")


def test_an_output_that_cannot_be(d2run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = d2run(*FAKE, f"input={photos}", f"output={tmp_path}/file/run")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: output {tmp_path}/file/run: it is a file; choose another output\n"
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for i in range(3000):
        write_picture(folder / f"{i}.png", np.full((64, 64, 3), i % 251, np.uint8))
    return folder


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize(
    ("number", "status"),
    [pytest.param(signal.SIGINT, 130, id="INT"), pytest.param(signal.SIGTERM, 143, id="TERM")],
)
def test_signals(
    many: Path, tmp_path: Path, number: signal.Signals, status: int, again: bool
) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        command(*FAKE, f"input={many}", f"output={out}"),
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while len(list((out / "overlay").glob("*.jpg"))) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    if again:
        time.sleep(0.03)
        process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    if again:  # it exited immediately: only complete lines are guaranteed
        assert len(lines(out / "predictions.jsonl")) >= 19
        return
    error, resume = stderr.splitlines()[-2:]
    assert re.fullmatch(rf"error: (interrupted|terminated); \d+ results are kept in {out}", error)
    assert resume.removeprefix("resume with: ") == shlex.join(process.args)
    assert "Traceback" not in stderr
    assert json.loads((out / "run.json").read_text())["exit_status"] == status
    records = lines(out / "predictions.jsonl")
    assert 19 <= len(records) < 3000
    assert len(records) == len(list((out / "overlay").iterdir()))
    assert not list(out.rglob("*.part"))


def test_a_full_disk(d2run: Run, tmp_path: Path) -> None:
    folder, out = tmp_path / "flat", tmp_path / "run"
    for i in range(400):
        write_picture(folder / f"{i}.png", np.full((64, 64, 3), i % 251, np.uint8))
    # no file may grow over 90 kB, which images and records do not, but predictions.jsonl does
    code = (
        "import resource, runpy, signal, sys; sys.path.insert(0, sys.argv[1]); del sys.argv[0]\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); sys.argv[0] += '/run.py'\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000))\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    job = [*FAKE, f"input={folder}", f"output={out}"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), *job],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert (
        done.stderr == f"error: cannot write the output {out}/predictions.jsonl: File too large\n"
    )
    whole = lines(out / "predictions.jsonl")
    assert 20 < len(whole) < 400
    assert len(list((out / "overlay").iterdir())) == len(whole)
    assert json.loads((out / "run.json").read_text())["exit_status"] == 1
    assert not list(out.rglob("*.part"))
    for arguments in (job, [*job[:-1], f"output={tmp_path}/fresh"]):  # there is room again
        assert d2run(*arguments).returncode == 0
    for name in ("predictions.jsonl", "coco.json", "coco_results.json", "failures.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def test_nothing_of_an_earlier_run_is_left(d2run: Run, photos: Path, tmp_path: Path) -> None:
    d2run(*FAKE, f"input={photos}", "output=run")
    out = tmp_path / "cwd" / "run"
    (out / "notes.txt").write_text("the user's own")
    again = (*FAKE, f"input={photos}/b.png", "output=run", "sink=[overlay]")
    assert d2run(*again).returncode == 2
    assert (out / "coco.json").exists()
    d2run(*again, "runner.on_change=restart")
    assert [path.name for path in (out / "overlay").iterdir()] == ["b.png.jpg"]
    assert not (out / "coco.json").exists()
    assert (out / "notes.txt").exists()


def test_a_folder_that_is_no_runs_is_not_cleared(d2run: Run, photos: Path, tmp_path: Path) -> None:
    mine = tmp_path / "cwd" / "run" / "overlay" / "mine.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_text("the user's own")
    d2run(*FAKE, f"input={photos}/b.png", "output=run")
    assert mine.exists()


def test_a_users_own_files_are_not_overwritten(d2run: Run, photos: Path) -> None:
    done = d2run(*FAKE, f"input={photos}", f"output={photos}")
    assert done.returncode == 2
    assert "output is the input" in done.stderr
    own = photos / "sub" / "coco.json"
    own.write_text("annotations")
    done = d2run(*FAKE, f"input={photos}/b.png", f"output={photos}/sub")
    assert done.returncode == 2
    assert "holds coco.json, which" in done.stderr
    assert own.read_text() == "annotations"


def test_an_empty_output_is_refused(d2run: Run, photos: Path, tmp_path: Path) -> None:
    done = d2run(*FAKE, f"input={photos}/b.png", "output=")
    assert done.returncode == 2
    assert "output: expected a value, got ''" in done.stderr
    assert list((tmp_path / "cwd").iterdir()) == []


def test_an_output_below_the_input_is_no_input(d2run: Run, photos: Path) -> None:
    for told in ("6 done, 1 failed", "0 done, 1 failed, 6 done earlier"):
        done = d2run(*FAKE, f"input={photos}", f"output={photos}/results")
        assert told.removeprefix("0 done, ") in done.stdout


def test_a_sweep_over_standard_input(d2run: Run, photos: Path, tmp_path: Path) -> None:
    done = d2run(
        "-m", "model=mask_rcnn,retinanet", "runnable=fake", "input=-", "output=sweep",
        input=f"{photos}/b.png\n{photos}/a1.jpg\n",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for job in ("0", "1"):
        assert len(lines(tmp_path / "cwd/sweep" / job / "predictions.jsonl")) == 2


def test_a_closed_standard_output_is_no_failure(photos: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(*FAKE, f"input={photos}/b.png", f"output={tmp_path}/run"),
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [400, pytest.param(5000, marks=pytest.mark.nightly)])
def test_many_images_keep_their_order_in_flat_memory(tmp_path: Path, number: int) -> None:
    folder = tmp_path / "many"
    for i in range(number):
        write_picture(folder / f"{i}.png", np.full((64, 64, 3), i % 251, np.uint8))
    (tmp_path / "first.txt").write_text(
        "\n".join(str(folder / f"{i}.png") for i in range(number // 4))
    )

    def peak_mb(source: Path, out: Path) -> float:
        code = (
            "import resource, runpy, sys; sys.path.insert(0, sys.argv[1]); del sys.argv[0]\n"
            "sys.argv[0] += '/run.py'\n"
            "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        )
        options = (*FAKE, f"input={source}", f"output={out}", "quiet=true")
        done = subprocess.run(
            [sys.executable, "-c", code, str(ROOT), *options],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert done.returncode == 0, done.stderr
        return int(done.stderr.splitlines()[-1]) / 1024

    small = peak_mb(tmp_path / "first.txt", tmp_path / "small")
    large = peak_mb(folder, tmp_path / "large")
    assert large < small + (50 if number > 1000 else 30)
    records = lines(tmp_path / "large" / "predictions.jsonl")
    assert [record["asset"] for record in records] == [f"{i}.png" for i in range(number)]
