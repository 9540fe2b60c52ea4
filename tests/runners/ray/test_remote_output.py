"""An output in an object store, on workers that share no file system."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import shelf
from batches import derived, job_of, record, write_images
from scripted_pool import ScriptedPool
from shelf import objects

from pipeline.config.outputs import local_directory
from pipeline.job import Report
from runners.batch.ray import RayBatch
from runners.ray import executor

NAMES = [*(f"{i}.png" for i in range(9)), "sub/x.jpg"]
ADDRESS = "shelf://bucket/night"
JOB = ("device=cpu", "sink=[coco,overlay,crops]", "input=in")


class Machines(ScriptedPool):
    """Workers on machines of their own."""

    def __init__(self, job: Any, number: int, fate: Any, seed: int) -> None:
        super().__init__(job, number, fate, seed)
        config = {**job.config, "input": None, "output": job.address}
        text = str(job.output)
        config["sink"] = {
            name: {
                k: str(v).replace(text, ADDRESS) if k == "directory" else v for k, v in s.items()
            }
            for name, s in config["sink"].items()
        }
        self._arguments = config, "/not there"
        self._alive = [self._worker() for _ in self._numbers]

    def start(self, worker: int) -> Any:
        return self._call(worker, lambda: self._started(worker))

    def _started(self, worker: int) -> Any:
        home, os.environ["D2RUN_HOME"] = os.environ["D2RUN_HOME"], f"machine {worker}"
        try:
            return self._alive[worker].start()
        finally:
            os.environ["D2RUN_HOME"] = home


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shelf.set_up(tmp_path, monkeypatch)
    write_images(tmp_path / "in", *NAMES)
    (tmp_path / "in/5.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    return tmp_path


def on_workers(
    monkeypatch: pytest.MonkeyPatch, fate: Any = lambda ids: "", seed: int = 0, given: str = "in"
) -> Report:
    job = job_of(
        "runner=ray", *JOB, f"output={ADDRESS}", "runner.chunk=3", "decode.isolation=none",
        f"input={given}",
    )  # fmt: skip
    pool = Machines(job, 3, fate, seed)
    monkeypatch.setattr(executor, "time", pool)
    monkeypatch.setattr(RayBatch, "_pool", lambda self, job: pool)
    return job.runner.run(job)


def batch(out: str) -> None:
    job = job_of(*JOB, f"output={out}")
    job.runner.run(job)


def check(here: Path) -> None:
    """Compare the copy with the run directory of a batch, and with the driver's."""
    batch("out")
    remote, local = here / "shelf/bucket/night", local_directory(ADDRESS)
    assert derived(remote) == derived(Path("out")) == derived(local)
    hidden = {".lock", ".remote.json"}
    assert {n for n in objects(remote) if not n.startswith(".d2run/")} == objects(
        local
    ).keys() - hidden
    assert record(remote)["manifest"]["sha256"] == record(Path("out"))["manifest"]["sha256"]


def test_workers_upload_and_the_driver_fetches(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_workers(monkeypatch, seed=2).counts == {"done": 9, "failed": 1}
    check(here)
    files = [len(list(Path(f"machine {i}").rglob("overlay/**/*.jpg"))) for i in range(3)]
    assert sum(files) == 9
    assert max(files) < 9, files
    # a changed input, by a worker that has none of its earlier crops
    write_images(Path("in"), *NAMES[:3], value=77)
    assert on_workers(monkeypatch, seed=1).counts["done"] == 3
    check(here)


@pytest.mark.parametrize("seed", range(2))
def test_workers_die_at_random(here: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance, deaths = random.Random(seed), 0

    def fate(ids: Sequence[str]) -> str:
        nonlocal deaths
        if deaths < 4 and chance.random() < 0.4 and len(ids) > 1:
            deaths += 1
            return chance.choice(["die", "die late", "hang"])
        return ""

    assert on_workers(monkeypatch, fate, seed).counts == {"done": 9, "failed": 1}
    assert deaths
    check(here)


def test_input_in_an_object_store(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the machines need no common file system at all."""
    shutil.copytree("in", here / "shelf/photos")
    assert on_workers(monkeypatch, given="shelf://photos").counts == {"done": 9, "failed": 1}
    check(here)
