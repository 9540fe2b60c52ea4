"""A video, and a run that dies or a disk that fails: no segment is encoded twice, same bytes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from dying import POINTS, arm, ended, forked
from failing_disk import arm as arm_fault
from failing_disk import failed
from forking import warm
from scenarios import run_scenario, tell, told
from videos import write_video

SAME = ("predictions.jsonl", "coco.json", "failures.jsonl", "inputs.jsonl", "video/x.mp4.mp4")
SEGMENT = 4
DISK_FAULTS = (
    ("write", errno.ENOSPC), ("write", errno.EDQUOT), ("fsync", errno.EIO), ("open", errno.EMFILE),
    ("open", errno.EROFS),
)  # fmt: skip


def segments(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("video/.segments/*/*") if path.name.isdigit())


def scenario_kills(folder: Path, kills: int) -> None:
    """Kill or stop the run once per new segment, then let it end."""
    source = write_video(folder / "in/x.mp4", SEGMENT * (kills + 3) + 1, audio=True)
    command = ["model=mask_rcnn", "runnable=fake", "sink=[coco,video]", f"input={source.parent}"]
    command += [f"sink.video.segment_frames={SEGMENT}", "quiet=true"]
    assert ended(forked([*command, f"output={folder}/whole"])) == 0
    out = folder / "out"
    kept: dict[str, int] = {}
    for i in range(kills):
        number = signal.SIGTERM if i % 2 else signal.SIGKILL
        child = forked([*command, f"output={out}"])
        while len(segments(out)) <= len(kept):
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "the run ended before it was killed"
            time.sleep(0.001)
        os.kill(child, number)
        assert ended(child) == (143 if i % 2 else -signal.SIGKILL)
        now = {path.name: path.stat().st_mtime_ns for path in segments(out)}
        assert kept.items() <= now.items()  # none was encoded again
        kept = now
    assert ended(forked([*command, f"output={out}"])) == 0
    for name in SAME:
        assert (out / name).read_bytes() == (folder / "whole" / name).read_bytes(), name
    assert not list(out.glob("video/.segments/*"))
    shutil.rmtree(folder / "in")
    tell(f"{kills} deaths")


def of_both(folder: Path) -> list[str]:
    """Return the command that processes a video between two images."""
    write_video(folder / "in/x.mp4", 2 * SEGMENT + 1, audio=True)
    for name in ("a.png", "z.png"):
        image = np.full((24, 32, 3), ord(name[0]), np.uint8)
        (folder / "in" / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    command = ["model=mask_rcnn", "runnable=fake", "sink=[coco,overlay,video]", "quiet=true"]
    return [*command, f"input={folder}/in", f"sink.video.segment_frames={SEGMENT}"]


def content(out: Path) -> dict[str, bytes]:
    """Return what must be the same."""
    files = [out / name for name in SAME] + sorted(out.glob("overlay/**/*.jpg"))
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def check_the_next_run(command: list[str], out: Path, whole: dict[str, bytes]) -> None:
    assert ended(forked([*command, f"output={out}"])) == 0, out
    assert content(out) == whole, out
    assert not list(out.glob("video/.segments/*"))
    left = list(out.rglob("*.part"))
    assert not left, left
    shutil.rmtree(out)


def scenario_points(folder: Path, times: list[int], every: int) -> None:
    """Die at each point, in a run that adds a video to the results of images."""
    command, deaths = of_both(folder), 0
    assert ended(forked([*command, f"output={folder}/whole"])) == 0
    whole = content(folder / "whole")
    video = (folder / "in/x.mp4").rename(folder / "x.mp4")
    assert ended(forked([*command, f"output={folder}/half"])) == 0
    video.rename(folder / "in/x.mp4")
    for point in POINTS[::every]:
        for at in times:
            out = folder / f"{point} {at}"
            shutil.copytree(folder / "half", out)
            child = forked([*command, f"output={out}"], lambda p=point, at=at: arm(p, at))  # type: ignore[misc]
            status = ended(child)
            assert status in (0, -signal.SIGKILL), (point, at, status)
            deaths += status != 0
            check_the_next_run(command, out, whole)
    tell(f"{deaths} deaths")


def scenario_faults(folder: Path, times: list[int], every: int) -> None:
    """Every operation on the files of a video fails."""
    command, met = of_both(folder), 0
    assert ended(forked([*command, f"output={folder}/whole"])) == 0
    whole = content(folder / "whole")
    segment = r"video/\.segments/[^/]+/"
    faults = [
        *((rf"{segment}.*\.part", *fault) for fault in DISK_FAULTS),
        *((r"video/[^/]*\.part", *fault) for fault in DISK_FAULTS if fault[0] != "write"),
        (rf"{segment}\d+", "rename", errno.ENOSPC),
        (r"video/x\.mp4\.mp4", "rename", errno.EIO),
        (r"video$", "fsync", errno.EIO),
    ]
    for pattern, operation, error in faults[::every]:
        for at in times:
            out = folder / f"{met} {at}"

            def fail(
                fault: tuple[str, str, int] = (pattern, operation, error), at: int = at
            ) -> None:
                arm_fault(out, *fault, at, once=False)  # noqa: B023

            status, lines = told(
                lambda: forked([*command, f"output={out}"], fail),  # noqa: B023
                folder / "stderr",
            )
            if failed(out):
                met += 1
                out.with_suffix(".failed").unlink()
                assert status == 1, (pattern, operation, lines)
                said = [line for line in lines if not line.startswith("warning: sink=video")]
                assert len(said) == 1, (pattern, operation, lines)
                assert said[0].startswith("error: cannot write the output"), said
                assert not list(out.rglob("*.part"))
            else:
                assert status == 0, (pattern, operation, lines)
            check_the_next_run(command, out, whole)
    tell(f"{met} faults")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("times", "every", "least"),
    [([1], 22, 1), pytest.param([1, 3, 8], 1, 50, marks=pytest.mark.nightly)],
)
def test_killed_at_every_point(tmp_path: Path, times: list[int], every: int, least: int) -> None:
    (tmp_path / "in").mkdir()
    assert int(run_scenario(__file__, tmp_path, "points", times, every).split()[0]) >= least


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("times", "every", "least"),
    [([1], 8, 1), pytest.param([1, 2, 3], 1, 20, marks=pytest.mark.nightly)],
)
def test_a_disk_that_fails(tmp_path: Path, times: list[int], every: int, least: int) -> None:
    (tmp_path / "in").mkdir()
    assert int(run_scenario(__file__, tmp_path, "faults", times, every).split()[0]) >= least


@pytest.mark.slow
def test_killed_in_the_middle_of_a_video(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert "2 deaths" in run_scenario(__file__, tmp_path, "kills", 2)


@pytest.mark.nightly
def test_killed_in_the_middle_of_a_video_many_times(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert "10 deaths" in run_scenario(__file__, tmp_path, "kills", 10)


if __name__ == "__main__":
    warm()
    globals()[f"scenario_{sys.argv[1]}"](Path(sys.argv[2]), *json.loads(sys.argv[3]))
