"""Runs over streams: what is kept, what is refused, and how a signal ends them."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batches import FAKE, job_of, lines, record, run
from cameras import Camera
from command_line import command, environment
from processes import wait_for

from pipeline.errors import ConfigError, OutputError
from pipeline.sources.recorded import Recorded

LIVE = ("source=stream", "source.timeout_s=2", "source.on_slow=block")


@pytest.fixture
def camera() -> Iterator[Camera]:
    with Camera(60, rate=0) as camera:
        yield camera


def test_runs_into_one_output(
    camera: Camera, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    url = camera.url("live.ts?key=hush", user="me:hush@")
    arguments = (*LIVE, f"input={url}", f"output={out}", "source.segment_s=1")
    report = run(*arguments, "source.max_frames=40")
    assert (report.exit_status, report.message) == (0, "")
    first = lines(out / "predictions.jsonl")
    assert [line["time_s"] for line in first] == [i / 25 for i in range(40)]
    assert [line["frame"] for line in first] == [*range(25), *range(15)]
    # when to stop is no setting; the ids of this run come later, so the results stay in order
    report = run(*arguments, "source.max_frames=10", "source.retries=3", "decode_threads=4")
    assert (report.exit_status, report.message) == (0, "")
    found = lines(out / "predictions.jsonl")
    assert found[:40] == first
    assert len(found) == 50
    assert [line["image_id"] for line in found] == list(range(1, 51))
    assets = list(dict.fromkeys(line["asset"] for line in found))
    assert assets == sorted(assets)
    assert [line["asset"] for line in lines(out / "inputs.jsonl")] == assets
    assert len(json.loads((out / "coco.json").read_text())["images"]) == 50
    assert record(out)["totals"] == {"done": 3, "failed": 0}
    assert record(out)["warnings"] == []
    for path in out.rglob("*"):
        assert b"hush" not in (path.read_bytes() if path.is_file() else b"")
        assert "hush" not in path.name
    assert "hush" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("threads", [1, 4])
def test_a_stream_that_is_lost(camera: Camera, tmp_path: Path, threads: int) -> None:
    out = tmp_path / "out"
    arguments = (f"input={camera.url('live.ts', user='me:hush@')}", f"output={out}")
    report = run(*LIVE, *arguments, "source.retries=0", f"decode_threads={threads}")
    assert report.exit_status == 3
    assert report.message == "the stream was lost: the connection was closed"
    assert len(lines(out / "predictions.jsonl")) == 60
    assert (out / "coco.json").exists()
    assert record(out)["exit_status"] == 3
    # its predictions can be replayed, but not its frames
    assert [asset.id for asset in Recorded(str(out))] == [lines(out / "inputs.jsonl")[0]["asset"]]
    with pytest.raises(ConfigError, match="read a stream, whose frames are gone"):
        Recorded(str(out), pixels=True).check()


def test_a_damaged_stream_is_done_in_part(camera: Camera, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run(
        *LIVE, f"input={camera.url('damaged.ts')}", f"output={out}", "source.max_frames=50"
    )
    assert report.exit_status == 3
    assert "1 of 1 inputs could not be decoded in full" in report.message
    assert len(lines(out / "predictions.jsonl")) == 50
    (failure,) = lines(out / "failures.jsonl")
    assert failure["error"] == "PartialError"


def test_an_output_that_fails_ends_the_stream(tmp_path: Path) -> None:
    class Full:
        outputs = ()

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *exc_info: object) -> None: ...
        def begin(self, asset: Any) -> None: ...
        def discard(self, asset: Any) -> None: ...
        def flush(self, asset: Any) -> None: ...
        def write(self, result: Any) -> None:
            if result.frame.index == 5:
                raise OutputError("the disk is full")

    with Camera(400, rate=50) as camera:
        arguments = f"input={camera.url('x', 'rtsp')}", f"output={tmp_path}/out"
        job = job_of(*LIVE, *arguments, "decode_threads=4", "source.segment_s=1")
        job.sinks["full"] = Full()
        with pytest.raises(OutputError, match="the disk is full"):
            job.runner.run(job)
    assert not [each for each in threading.enumerate() if each.name in ("capture", "decode-1")]


def test_a_stream_that_cannot_be_opened(camera: Camera, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"cannot read .* 404"):
        run(f"input={camera.url('404', 'rtsp')}", f"output={out}", "source=auto")
    assert not (out / "predictions.jsonl").exists()
    assert not (out / "status.json").exists()


def test_the_duration_ends_a_stream_that_is_away(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Camera(25, rate=0) as camera:
        report = run(
            *LIVE,
            f"input={camera.url('x', 'rtsp')}",
            f"output={out}",
            "source.duration_s=0.5",
            "source.max_backoff_s=60",
        )
    assert (report.exit_status, report.message) == (0, "")
    assert len(lines(out / "predictions.jsonl")) == 24


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("runner.prune=true", r"runner\.prune: it does not apply to a stream"),
        ("runner.retry_failed=true", r"runner\.retry_failed: it does not apply to a stream"),
        ("runner.max_failures=5%", r"runner\.max_failures: expected a number"),
        ("runner=plan", "a stream cannot be planned"),
        ("runner=watch", "use runner=batch"),
    ],
)
def test_refused(camera: Camera, tmp_path: Path, option: str, message: str) -> None:
    url = camera.url("x", "rtsp")
    with pytest.raises(ConfigError, match=message):
        run(f"input={url}", f"output={tmp_path / 'out'}", option)
    assert not camera.requests


def test_one_of_several(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a stream cannot be one of several inputs"):
        job_of(f"input=[rtsp://host/x,{tmp_path}]", f"output={tmp_path / 'out'}")


def test_a_killed_run_leaves_nothing_of_its_last_segment(tmp_path: Path) -> None:
    out = tmp_path / "out"
    overlays = out / "overlay"
    with Camera(1000, rate=25) as camera:
        sinks = "sink=[coco,overlay]"
        arguments = (*LIVE, sinks, f"input={camera.url('x', 'rtsp')}", f"output={out}")
        whole = command(*FAKE[:2], *FAKE[3:], *arguments, "source.segment_s=2")
        process = subprocess.Popen(whole, env=environment(tmp_path))
        inputs = out / "inputs.jsonl"
        wait_for(lambda: inputs.exists() and inputs.read_bytes().count(b"\n") >= 1)
        wait_for(lambda: len([*overlays.glob("*/x/*")]) >= 2)
        process.kill()
        process.wait()
        committed = [line["asset"] for line in lines(inputs)]
        assert len([*overlays.glob("*/x/*")]) > len(committed)
        report = run(*arguments, "source.segment_s=2", "source.max_frames=5")
    assert report.exit_status == 0
    assets = [line["asset"] for line in lines(inputs)]
    assert assets[: len(committed)] == committed
    assert sorted(str(path.relative_to(overlays)) for path in overlays.glob("*/x/*")) == assets
    assert len(json.loads((out / "coco.json").read_text())["images"]) == len(
        lines(out / "predictions.jsonl")
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_in_order(tmp_path: Path, number: int, status: int) -> None:
    out = tmp_path / "out"
    with Camera(1000, rate=25) as camera:
        process = subprocess.Popen(
            command(
                "model=mask_rcnn",
                "runnable=fake",
                "sink=[coco]",
                f"input={camera.url('x', 'rtsp', 'me:hush@')}",
                f"output={out}",
                "source=stream",
                "source.segment_s=1",
            ),
            env=environment(tmp_path),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        inputs = out / "inputs.jsonl"
        wait_for(lambda: inputs.exists() and len(inputs.read_bytes().splitlines()) >= 2)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert "hush" not in said
    found = lines(out / "predictions.jsonl")
    assert record(out)["state"] == "ended"
    assert record(out)["exit_status"] == status
    entries = lines(inputs)
    assert len(entries) >= 2
    assert {entry["outcome"] for entry in entries} == {"done"}
    assert sum(entry["frames"] for entry in entries) == len(found)
    assert len(json.loads((out / "coco.json").read_text())["images"]) == len(found)


def test_a_signal_ends_a_sweep(tmp_path: Path) -> None:
    with Camera(1000, rate=25) as camera:
        process = subprocess.Popen(
            command(
                "-m",
                *FAKE,
                f"input={camera.url('x', 'rtsp')}",
                "source=stream",
                "source.segment_s=1,2",
                f"hydra.sweep.dir={tmp_path}/sweep",
            ),
            env=environment(tmp_path),
            stderr=subprocess.PIPE,
            text=True,
        )
        inputs = tmp_path / "sweep/0/inputs.jsonl"
        wait_for(lambda: inputs.exists() and inputs.stat().st_size > 0)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert (tmp_path / "sweep/0/coco.json").exists()
    assert not (tmp_path / "sweep/1").exists()


def test_a_camera_by_its_number(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read '/dev/video987': No such file"):
        run("input=987", f"output={tmp_path / 'out'}")
