"""Videos on the command line: records, damage, and what a changed file costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from command_line import Run
from videos import NTSC, cut, write_video

ARGUMENTS = ("model=mask_rcnn", "runnable=fake", "sink=[coco]", "input=clips", "output=out")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_damaged_video_is_done_and_listed_as_a_failure(d2run: Run, tmp_path: Path) -> None:
    clips, out = tmp_path / "cwd/clips", tmp_path / "cwd/out"
    clips.mkdir()
    whole = write_video(clips / "a.mp4", audio=True)
    cut(whole, 0.8, clips / "b.mp4")
    done = d2run(*ARGUMENTS)
    assert done.returncode == 3
    assert "1 of 2 inputs could not be decoded in full; see" in done.stderr
    assert "error: b.mp4: decode: damaged video: " in done.stderr
    (failure,) = lines(out / "failures.jsonl")
    assert (failure["asset"], failure["step"], failure["error"]) == (
        "b.mp4", "decode", "PartialError",
    )  # fmt: skip
    records = lines(out / "predictions.jsonl")
    times = [record["time_s"] for record in records if record["asset"] == "a.mp4"]
    assert times == [float(i / NTSC) for i in range(12)]
    kept = [record["frame"] for record in records if record["asset"] == "b.mp4"]
    assert kept == list(range(len(kept)))
    assert kept
    assert f"decoded frames: {len(kept)}" in failure["message"]
    (_, entry) = lines(out / "inputs.jsonl")
    assert (entry["outcome"], entry["frames"]) == ("done", len(kept))
    images = json.loads((out / "coco.json").read_text())["images"]
    assert len(images) == len(records)

    before = (out / "predictions.jsonl").read_bytes()
    again = d2run(*ARGUMENTS)  # nothing has changed, so the damage is not decoded again
    assert again.returncode == 3
    assert "2 done earlier" in again.stdout
    assert (out / "predictions.jsonl").read_bytes() == before
    assert lines(out / "failures.jsonl") == [failure]

    (clips / "b.mp4").write_bytes(whole.read_bytes())
    assert d2run(*ARGUMENTS).returncode == 0
    assert lines(out / "failures.jsonl") == []
    assert len(lines(out / "predictions.jsonl")) == 24


def test_options_and_processes_give_the_same_records(d2run: Run, tmp_path: Path) -> None:
    clips = tmp_path / "cwd/clips"
    clips.mkdir()
    write_video(clips / "a.mp4")
    write_video(clips / "b.mov", rotation=90)
    for i, more in enumerate(("decode.isolation=none", "decode.isolation=process")):
        done = d2run(*ARGUMENTS[:-1], f"output=out{i}", "source=video", "source.stride=3", more)
        assert done.returncode == 0, done.stderr
    first, second = (tmp_path / f"cwd/out{i}/predictions.jsonl" for i in range(2))
    assert first.read_bytes() == second.read_bytes()
    assert [(each["frame"], each["pts"]) for each in lines(first)[:4]] == [
        (0, 0), (1, 3003), (2, 6006), (3, 9009),
    ]  # fmt: skip
    assert [each["width"] for each in lines(first)] == [64] * 4 + [48] * 4
