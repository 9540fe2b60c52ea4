"""Jobs in the test's own process, from the arguments of a command line."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from command_line import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from pipeline.config.build import build_job
from pipeline.job import Job, Report
from runners.command_line import hydra_arguments

FAKE = ("model=mask_rcnn", "runnable=fake", "sink=[coco]", "quiet=true", "batch_size=1")


def job_of(*arguments: str) -> Job:
    """Build a job whose model finds something in anything."""
    given = OverridesParser.create().parse_overrides(hydra_arguments([*FAKE, *arguments]))
    groups = [one for one in given if (ROOT / "conf" / one.key_or_group).is_dir()]
    cfg = deepcopy(_composed(tuple(one.input_line or "" for one in groups)))
    for one in given:
        if one not in groups and not one.key_or_group.startswith("hydra."):
            OmegaConf.update(cfg, one.key_or_group, one.value())
    return build_job(cfg)


@cache  # composing takes most of the time of a small job
def _composed(groups: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", [*groups, "output=out"])


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


LISTS = ("predictions.jsonl", "inputs.jsonl", "failures.jsonl", "coco.json", "coco_results.json")


def derived(out: Path) -> dict[str, bytes]:
    """Return what a run has derived from its input, and what it should not have left behind."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    own = [p for p in files if p.name in (*LISTS, ".in_flight") or p.suffix in (".jpg", ".part")]
    return {str(path.relative_to(out)): path.read_bytes() for path in own}


def results(out: Path) -> dict[str, tuple[int, int]]:
    """Return the size of each asset's frame, by id; each asset has one line."""
    found = lines(out / "predictions.jsonl")
    sizes = {line["asset"]: (line["height"], line["width"]) for line in found}
    assert len(sizes) == len(found)
    assert [line["image_id"] for line in found] == list(range(1, len(found) + 1))
    return sizes
