"""How runner=ray scales with the number of workers, and what it costs the driver per image.

    uv run python benchmarks/actors.py [--workers 1 2 4 8 16] [--seconds 30] [--json FILE]

The model sleeps (``--sleep``, in seconds per image), so that more workers than cores can be
measured: a GPU leaves the cores alone in the same way. Each count of workers gets as many images as
take ``--seconds``. The time is from the first image to the last, once all workers are ready;
``driver`` is the processor time of the process that hands out the work and commits the results,
measured with a model that takes no time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import report
from hydra import compose, initialize_config_dir

from pipeline.config.build import build_job
from pipeline.job import Executor, Job, Outcome
from pipeline.protocols import Asset
from runners.batch.ray import RayBatch
from runners.cluster.connection import connected
from runners.ray.actors import Actors
from runners.ray.pool import Pool
from runners.ray.remote import RemoteRunnable

CONF = Path(__file__).resolve().parents[1] / "conf"


class Timed:
    """An executor that measures what is done between its first request and its last outcome."""

    def __init__(self, inner: Executor) -> None:
        self.inner = inner
        self.wall_s = self.cpu_s = 0.0

    def run(self, assets: Iterable[Asset]) -> Iterator[Outcome]:
        """Yield the outcomes."""
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        yield from self.inner.run(assets)
        self.wall_s, self.cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s


class Measured(RayBatch):
    """A batch on Ray whose workers are all ready before the first image."""

    ray: Any = None
    timed: Timed

    def _pool(self, job: Job) -> Pool:
        config = {**job.config, "input": None, "output": str(job.output)}
        arguments = (config, str(Path.cwd()), 1)
        assert isinstance(self.workers, int)
        return Actors(self.ray, self.workers, {"num_cpus": 1}, arguments, ExitStack())

    def executor(self, job: Job) -> Executor | None:
        """Return the executor, once all workers are ready."""
        runnable = job.runnable
        assert isinstance(runnable, RemoteRunnable)
        assert runnable.pool is not None
        calls = {runnable.pool.start(worker) for worker in runnable.pool.workers()}
        while calls:
            calls -= set(runnable.pool.wait(calls, 1))
        inner = super().executor(job)
        assert inner is not None
        self.timed = Timed(inner)
        return self.timed


def measure(ray: Any, folder: Path, workers: int, n: int, sleep_s: float) -> Timed:
    """Run ``n`` images on a number of workers."""
    images, output = Path(tempfile.mkdtemp(dir=folder)), Path(tempfile.mkdtemp(dir=folder))
    data = cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()
    for i in range(n):
        (images / f"{i}.png").write_bytes(data)
    overrides = [
        "model=mask_rcnn", "runnable=fake", "runnable._target_=sleeping.Sleeping",
        f"+runnable.sleep_s={sleep_s}", "trusted_packages=[pipeline,runners,sleeping]",
        "sink=[]", "device=cpu", "quiet=true", f"input={images}", f"output={output}",
    ]  # fmt: skip
    job = build_job(compose("config", overrides))
    runner = Measured(workers=workers)
    runner.ray = ray
    found = runner.run(replace(job, runner=runner))
    assert found.counts["done"] == n
    return runner.timed


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    counts = [1, 2, 4, 8, 16]
    parser.add_argument("--workers", type=report.at_least_one, nargs="+", default=counts)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--sleep", type=float, default=0.25)
    parser.add_argument("--images", type=report.at_least_one, default=2000, help="for the driver")
    parser.add_argument("--json", type=report.new_file, metavar="FILE")
    args = parser.parse_args()
    found: dict[str, Any] = {"sleep_s": args.sleep, "workers": {}}
    with (
        tempfile.TemporaryDirectory(prefix="d2run-bench-") as temporary,
        initialize_config_dir(str(CONF), version_base="1.3"),
        connected("local", max(args.workers)) as ray,
    ):
        rows = []
        for workers in args.workers:
            n = max(1, round(args.seconds / args.sleep)) * workers
            wall_s = measure(ray, Path(temporary), workers, n, args.sleep).wall_s
            share = n * args.sleep / wall_s / workers
            found["workers"][workers] = {"images": n, "wall_s": wall_s, "busy": share}
            rows.append([str(workers), str(n), f"{n / wall_s:.1f}", f"{share:.3f}"])
        report.table(
            f"a model that sleeps {args.sleep} s per image",
            ["workers", "images", "images/s", "of workers / sleep"],
            rows,
        )
        timed = measure(ray, Path(temporary), 1, args.images, 0.0)
        found["driver_ms"] = 1000 * timed.cpu_s / args.images
        found["driver_images_per_s"] = args.images / timed.wall_s
        report.say(
            f"driver: {found['driver_ms']:.2f} ms of processor time per image (one worker, "
            f"{args.images} images, {found['driver_images_per_s']:.0f} images/s)"
        )
    report.save(args.json, {"machine": report.machine(), **found})


if __name__ == "__main__":
    main()
