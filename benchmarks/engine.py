"""Overhead of the pipeline per frame: the model takes no time, and frames need no decoding.

    uv run python benchmarks/engine.py [--frames 2000] [--json FILE]
    uv run python benchmarks/engine.py --memory          # 10,000 frames of 1080p with masks

The sink is predictions.jsonl, as in every run; "committed" adds what makes a run resumable: the
lists of inputs and failures, the ledger, and waiting for the disk with each group. ``--memory``
prints how much larger the process is after all frames than after a tenth of them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import report

from pipeline.encoding import encode
from pipeline.engine import Pipeline
from pipeline.records import Frame, Predictions
from pipeline.runnables.fake import FakeRunnable
from pipeline.sinks.label_maps import LabelMaps
from runners.rundir.commit import Session
from runners.rundir.journal import Journal
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.ledger.ledger import Ledger


class Still:
    """An asset of one frame in memory.

    Attributes:
        id: Id in the results.
        image: The image; copied, as if decoded, if ``fresh``.
    """

    is_still = True
    path = Path()

    def __init__(self, asset_id: str, image: np.ndarray, fresh: bool) -> None:
        self.id, self.image, self.fresh = asset_id, image, fresh

    def fingerprint(self) -> str:
        """Return the id, because the content does not change."""
        return self.id

    def frames(self) -> Iterator[Frame]:
        """Yield its frame."""
        yield Frame(self.image.copy() if self.fresh else self.image, self.id)


class Known(FakeRunnable):
    """Has the steps of a real model, but returns prepared predictions.

    Attributes:
        shape: Of every prepared input.
    """

    shape = (3, 480, 640)

    def __enter__(self) -> Known:
        """Discard the predictions, which depend on the frames' size."""
        self._answer: Predictions | None = None
        super().__enter__()
        return self

    def prepare(self, frame: Frame) -> Known:
        """Prepare nothing."""
        return self

    def forward(self, prepared: Sequence[Known]) -> list[None]:
        """Compute nothing."""
        return [None] * len(prepared)

    def finish(self, frame: Frame, output: None) -> Predictions:
        """Return the same predictions for every frame."""
        if self._answer is None:
            self._answer = self.predict([frame])[0]
        return self._answer


def run(
    n_frames: int, size: tuple[int, int], instances: int, masks: bool, fresh: bool
) -> dict[str, Any]:
    """Process frames with the pipeline.

    Returns:
        ``ms_per_frame``, and the resident memory in MB after a tenth of the frames and at the end.
    """
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assets = (Still(f"{i:06d}.jpg", image, fresh) for i in range(n_frames))
    resident: list[float] = []
    with tempfile.TemporaryDirectory(prefix="d2run-bench-") as folder:
        runnable = Known(n_instances=instances, masks=masks)
        sinks = {"label_maps": LabelMaps(folder)}
        with runnable, Journal(Path(folder)) as journal:
            started = perf_counter()
            pipeline = Pipeline(runnable, {}, sinks, encode=encode, spool_dir=Path(folder))
            for done, outcome in enumerate(pipeline.run(assets), 1):
                if outcome.error is not None:
                    raise outcome.error
                journal.append(outcome.records)
                if done in (max(1, n_frames // 10), n_frames):
                    resident.append(_resident_mb())
            seconds = perf_counter() - started
    return {"ms_per_frame": 1000 * seconds / n_frames, "resident_mb": resident}


def committed(n_frames: int, size: tuple[int, int], instances: int, masks: bool) -> float:
    """Process frames with the pipeline and a session, as a batch does.

    Returns:
        Milliseconds a frame.
    """
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assets = ((Still(f"{i:06d}.jpg", image, False), i) for i in range(n_frames))
    with tempfile.TemporaryDirectory(prefix="d2run-bench-") as folder:
        runnable = Known(n_instances=instances, masks=masks)
        job: Any = SimpleNamespace(
            source=None,
            output=Path(folder),
            runnable=runnable,
            stages={},
            sinks={"label_maps": LabelMaps(folder)},
            config={"batch_size": 1, "decode_threads": None, "queue_mb": 256},
        )
        with runnable, Ledger(job.output / LEDGER) as ledger, Session(job, ledger) as session:
            started = perf_counter()
            for outcome in session.process(assets):
                if outcome.error is not None:
                    raise outcome.error
            return 1000 * (perf_counter() - started) / n_frames


def _resident_mb() -> float:
    statm = Path("/proc/self/statm")
    if not statm.exists():  # without /proc: the peak, which is enough for memory that only grows
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def overhead(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the overhead of frames of 640x480, without and with masks."""
    found: dict[str, Any] = {"frames": args.frames or 2000, "results": {}}
    rows = []
    for masks in (False, True):
        runs = [run(found["frames"], (480, 640), 3, masks, False) for _ in range(args.runs)]
        name = f"3 instances{' with masks' if masks else ''}"
        found["results"][name] = report.spread([each["ms_per_frame"] for each in runs])
        rows.append([name, report.shown(found["results"][name], 3)])
        name += ", committed"
        times = [committed(found["frames"], (480, 640), 3, masks) for _ in range(args.runs)]
        found["results"][name] = report.spread(times)
        rows.append([name, report.shown(found["results"][name], 3)])
    title = f"{found['frames']} frames, {args.runs} runs: median (min..max)"
    report.table(title, ["640x480, predictions.jsonl", "ms a frame"], rows)
    return found


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Measure how the process grows between a tenth of the frames and the last."""
    frames = args.frames or 10_000
    found = run(frames, (1080, 1920), 20, True, True)
    first, last = found["resident_mb"][0], found["resident_mb"][-1]
    growth = last - first
    row = [f"{frames}", *(f"{value:.1f}" for value in (first, last, growth, found["ms_per_frame"]))]
    columns = ["frames", "MB after a tenth", "MB at the end", "grown, MB", "ms a frame"]
    report.table("1920x1080, 20 masks, predictions.jsonl", columns, [row])
    return {"frames": frames, "growth_mb": growth, **found}


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--frames", type=report.at_least_one, help="by default 2,000; 10,000 for --memory"
    )
    parser.add_argument("--runs", type=report.at_least_one, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", type=report.new_file, metavar="FILE")
    args = parser.parse_args()
    found = memory(args) if args.memory else overhead(args)
    report.save(args.json, {"machine": report.machine(), **found})


if __name__ == "__main__":
    main()
