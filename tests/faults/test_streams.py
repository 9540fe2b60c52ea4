"""Real runs over assets of many frames that block, never end or are empty, stopped by SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from dying import ended, forked
from forking import warm
from processes import wait_for
from scenarios import run_scenario, tell

from pipeline.records import Frame

RESULTS = ("predictions.jsonl", "inputs.jsonl", "failures.jsonl", "coco.json")


class StreamAsset:
    """A file that says of how many frames it is, and what comes then: ``end block forever``."""

    is_still = False

    def __init__(self, path: Path) -> None:
        self.id, self.path = path.name, path
        self.n_frames, self.then = json.loads(path.read_text())

    def fingerprint(self) -> str:
        return sha256(self.path.read_bytes()).hexdigest()

    def frames(self) -> Iterator[Frame]:
        i = 0
        while i < self.n_frames or self.then == "forever":
            yield Frame(np.full((16, 16, 3), i % 251, np.uint8), self.id, i, time_s=i / 25)
            i += 1
            if i == self.n_frames and self.then != "end":
                self.path.with_suffix(".reached").touch()
        if self.then == "block":
            Event().wait()


class Streams:
    """Lists them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __iter__(self) -> Iterator[StreamAsset]:
        return map(StreamAsset, sorted(self.folder.glob("*.stream")))


def patched(folder: Path) -> None:
    import pipeline.config.build

    def build_source(*_: Any) -> Streams:
        return Streams(folder)

    pipeline.config.build.build_source = build_source  # type: ignore[assignment]


def outputs(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in RESULTS}


def scenario_stopped(folder: Path, then: str, n_frames: int) -> None:
    """Stop a run in the third of five assets; complete it once that asset ends."""
    source = folder / "in"
    source.mkdir()
    kinds = [(n_frames, "end"), (3, "end"), (n_frames, then), (0, "end"), (n_frames, "end")]
    for i, kind in enumerate(kinds):
        (source / f"{i}.stream").write_text(json.dumps(kind))
    job = ["model=mask_rcnn", "runnable=fake", "sink=[coco]", f"input={source}", "quiet=true"]

    def start(out: str) -> int:
        return forked([*job, f"output={folder / out}"], lambda: patched(source))

    child = start("out")
    wait_for((source / "2.reached").exists)
    os.kill(child, signal.SIGTERM)
    assert ended(child) == 143
    lines = [json.loads(line) for line in (folder / "out/predictions.jsonl").open()]
    assert [line["frame"] for line in lines] == [*range(n_frames), *range(3)]
    assert json.loads((folder / "out/run.json").read_text())["counts"] == {"done": 2, "failed": 0}
    assert not list((folder / "out").glob(".*.part"))
    (source / "2.stream").write_text(json.dumps((n_frames, "end")))
    for out in ("out", "whole"):
        assert ended(start(out), 900) == 3  # the empty one
    assert outputs(folder / "out") == outputs(folder / "whole")
    failures = (folder / "out/failures.jsonl").read_text()
    assert [json.loads(line)["asset"] for line in failures.splitlines()] == ["3.stream"]
    tell("whole")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("then", ["block", "forever"])
@pytest.mark.parametrize("n_frames", [100, pytest.param(20_000, marks=pytest.mark.nightly)])
def test_stopped_in_the_middle_of_a_stream(tmp_path: Path, then: str, n_frames: int) -> None:
    assert run_scenario(__file__, tmp_path, "stopped", then, n_frames) == "whole\n"


if __name__ == "__main__":
    warm()
    scenario_stopped(Path(sys.argv[2]), *json.loads(sys.argv[3]))
