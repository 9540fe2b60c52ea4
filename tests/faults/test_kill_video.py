"""kill -9 in the middle of a video: what is encoded is used again, and the bytes are the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from dying import ended, forked
from forking import warm
from scenarios import run_scenario, tell
from videos import write_video

SAME = ("predictions.jsonl", "coco.json", "failures.jsonl", "inputs.jsonl", "video/x.mp4.mp4")
SEGMENT = 4


def segments(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("video/.segments/*/*") if path.name.isdigit())


def scenario_kills(folder: Path, kills: int) -> None:
    """Kill the run once per new segment, then let it end."""
    source = write_video(folder / "in/x.mp4", SEGMENT * (kills + 3) + 1, audio=True)
    command = ["model=mask_rcnn", "runnable=fake", "sink=[coco,video]", f"input={source.parent}"]
    command += [f"sink.video.segment_frames={SEGMENT}", "quiet=true"]
    assert ended(forked([*command, f"output={folder}/whole"])) == 0
    out = folder / "out"
    kept: dict[str, int] = {}
    for _ in range(kills):
        child = forked([*command, f"output={out}"])
        while len(segments(out)) <= len(kept):
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "the run ended before it was killed"
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        assert ended(child) == -signal.SIGKILL
        now = {path.name: path.stat().st_mtime_ns for path in segments(out)}
        assert kept.items() <= now.items()  # none was encoded again
        kept = now
    assert ended(forked([*command, f"output={out}"])) == 0
    for name in SAME:
        assert (out / name).read_bytes() == (folder / "whole" / name).read_bytes(), name
    assert not list(out.glob("video/.segments/*"))
    shutil.rmtree(folder / "in")
    tell(f"{kills} deaths")


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
