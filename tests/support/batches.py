"""Jobs in the test's own process, from the arguments of a command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from command_line import ROOT
from hydra import compose, initialize_config_dir

from pipeline.config import Job, build_job
from pipeline.types import Report
from runners.entry import hydra_arguments

FAKE = ("model=mask_rcnn", "runnable=fake", "quiet=true", "batch_size=1")


def job_of(*arguments: str) -> Job:
    """Build a job whose model finds something in anything."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return build_job(compose("config", hydra_arguments([*FAKE, *arguments])))


def run(*arguments: str) -> Report:
    """Run it."""
    job = job_of(*arguments)
    return job.runner.run(job)


def write_images(folder: Path, *names: str, value: int = 0) -> None:
    """Write small images; their content is of ``value`` and of the name."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.full((16 + i, 20 + value % 50, 3), value % 256, np.uint8)
        path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def record(out: Path) -> dict[str, Any]:
    """Return ``run.json``."""
    content: dict[str, Any] = json.loads((out / "run.json").read_bytes())
    return content


def results(out: Path) -> dict[str, tuple[int, int]]:
    """Return the size of each asset's frame, by id; each asset has one line."""
    found = lines(out / "predictions.jsonl")
    sizes = {line["asset"]: (line["height"], line["width"]) for line in found}
    assert len(sizes) == len(found)
    assert [line["image_id"] for line in found] == list(range(1, len(found) + 1))
    return sizes
