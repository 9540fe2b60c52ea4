"""runner=watch with writers that pause, reuse names and write damaged files, and with kills."""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from command_line import command, environment

from pipeline.system.files import asset_id_of

FAKE = ("model=mask_rcnn", "runnable=fake", "sink=[coco,overlay]", "runner=watch", "quiet=true")


def image_bytes(seed: int) -> bytes:
    image = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def lines(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


@dataclass
class Writer:
    """Writes files one after another in different ways, every third under the previous name.

    Attributes:
        inbox: The watched folder.
        number: The number of this writer.
        n: How many files to write.
        after: Option of the watch; with ``keep``, a file with a reused name is overwritten.
        settle_s: Option of the watch; pauses are up to three times as long.
    """

    inbox: Path
    number: int
    n: int
    after: str
    settle_s: float

    def __post_init__(self) -> None:
        self.whole: list[tuple[str, str]] = []  # name and SHA-256, in order
        self.damaged: list[tuple[str, str]] = []
        self.failed: BaseException | None = None
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        try:
            rng = random.Random(self.number)
            ways = (self.holding, self.reopening, self.renaming)
            name = ""
            for i in range(self.n):
                again = i % 3 == 1  # under the name of the file before
                name = name if again else f"{self.number}/IMG_{i:04}.png"
                path = self.inbox / name
                path.parent.mkdir(exist_ok=True)
                data = image_bytes(self.number * 1000 + i)
                damaged = (self.number + i) % 4 == 3 and (self.after != "keep" or i % 3 == 2)
                if damaged:
                    data = data[: 400 + i] if i % 2 else b"no image" + data[:100]
                while again and self.after != "keep" and path.exists():
                    time.sleep(0.05)
                (self.damaged if damaged else self.whole).append((name, sha256(data)))
                ways[(i + i // 3) % 3](path, data, rng.uniform(0, 3 * self.settle_s))
        except BaseException as exc:
            self.failed = exc

    def holding(self, path: Path, data: bytes, pause_s: float) -> None:
        with path.open("wb", buffering=0) as file:
            file.write(data[: len(data) // 2])
            time.sleep(pause_s)
            file.write(data[len(data) // 2 :])

    def reopening(self, path: Path, data: bytes, pause_s: float) -> None:
        path.write_bytes(data[: len(data) // 2])
        time.sleep(pause_s)
        with path.open("ab") as file:
            file.write(data[len(data) // 2 :])

    def renaming(self, path: Path, data: bytes, pause_s: float) -> None:
        temporary = path.with_name(f".{path.name}.part")
        self.reopening(temporary, data, pause_s)
        temporary.replace(path)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        given = command(*FAKE, f"input={tmp_path}/in", f"output={tmp_path}/out", *arguments)
        with (tmp_path / "said").open("a") as said:
            started.append(
                subprocess.Popen(given, env=environment(tmp_path), stderr=said, text=True)
            )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("n", "writers", "kills", "settle_s", "after"),
    [
        (30, 15, 1, 0.3, "move"),
        *(
            pytest.param(
                500, 50, 5, 1.0, after, marks=(pytest.mark.nightly, pytest.mark.timeout(900))
            )
            for after in ("keep", "move", "delete")
        ),
    ],
)
def test_every_complete_file_has_its_own_result(
    n: int,
    writers: int,
    kills: int,
    settle_s: float,
    after: str,
    tmp_path: Path,
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    inbox, out, patient_s = tmp_path / "in", tmp_path / "out", 30 + 0.4 * n
    inbox.mkdir()
    job = (f"runner.after={after}", f"runner.settle_s={settle_s}", "runner.poll_s=0.5")
    writing = [Writer(inbox, k, n // writers, after, settle_s) for k in range(writers)]
    process = start(*job)
    for writer in writing:
        writer.thread.start()
    rng = random.Random(2)
    for kill in range(1, kills):
        wait_for(lambda k=kill: seen(out) >= k * n // (2 * kills), patient_s)
        time.sleep(rng.uniform(0, settle_s))
        process.kill()
        process.wait()
        process = start(*job)
    for writer in writing:
        writer.thread.join(patient_s)
        assert not writer.thread.is_alive()
        assert writer.failed is None
    process.kill()  # in the middle of the last ones
    process.wait()
    process = start(*job, "runner.max_passes=1")
    assert process.wait(60 + patient_s) == 3

    whole = [file for writer in writing for file in writer.whole]
    damaged = [file for writer in writing for file in writer.damaged]
    latest = whole if after != "keep" else list(dict(whole).items())
    expected = {digest for _, digest in latest}
    bad = {digest for _, digest in damaged}
    assert len(whole) + len(damaged) == n
    assert len(bad) == len(damaged) > n / 20

    def results(outcome: str) -> dict[str, str]:
        """Use the latest line of each input; earlier lines are removed only at the end."""
        found = {asset_id_of(line): line for line in lines(out / "inputs.jsonl")}
        return {i: line["sha256"] for i, line in found.items() if line["outcome"] == outcome}

    assert len(results("done")) == len(expected), "each has a result"
    assert set(results("done").values()) == expected, "and it is the right one"
    assert sorted(results("failed").values()) == sorted(bad)
    listed = [asset_id_of(line) for line in lines(out / "inputs.jsonl")]
    assert len(listed) == len(set(listed))
    ids = sorted(results("done"))
    assert sorted(asset_id_of(line) for line in lines(out / "predictions.jsonl")) == ids
    coco = json.loads((out / "coco.json").read_text())
    assert sorted(image["file_name"] for image in coco["images"]) == ids
    overlays = {str(path.relative_to(out / "overlay")) for path in out.glob("overlay/**/*.jpg")}
    assert overlays == {f"{asset_id}.jpg" for asset_id in ids}
    failures = [asset_id_of(line) for line in lines(out / "failures.jsonl")]
    assert sorted(failures) == sorted(results("failed"))

    counts = json.loads((out / "status.json").read_text())["counts"]
    assert counts["failed"] == len(damaged)
    assert counts["done"] == len(whole) or after == "keep"
    metric = re.search(r'outcome="failed"} (\S+)', (out / "metrics.prom").read_text())
    assert metric is not None
    assert float(metric[1]) == len(damaged)
    assert json.loads((out / "run.json").read_text())["exit_status"] == 3

    assert not list(inbox.glob("**/.d2run"))
    trees = {
        "keep": {},
        "move": {"done": "done", "failed": "failed"},
        "delete": {"failed": "failed"},
    }
    left = {
        str(path.relative_to(inbox)): sha256(path.read_bytes())
        for path in inbox.rglob("*")
        if path.is_file()
    }
    if after == "keep":
        assert left == dict(whole + damaged)
        assert results("done") | results("failed") == left
    else:
        assert left == {
            f"{folder}/{asset_id}": digest
            for folder, outcome in trees[after].items()
            for asset_id, digest in results(outcome).items()
        }


def seen(out: Path) -> int:
    return len(lines(out / "inputs.jsonl"))
