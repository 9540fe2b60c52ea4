"""The runs of one case: each contender in a process, and whether the results agree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import report
from agreement import Agreement, compare, line_of, of_job, of_naive
from cases import ROOT
from contenders import job_overrides

PEERS = ("naive", "predictor", "forward")
_JUDGED_SCENES = 200  # about 1,000 boxes; with fewer, two or three would decide


@dataclass
class Measured:
    """Seconds and memory of each process of a contender, in the order of the pairs."""

    s_per_image: list[float] = field(default_factory=list)
    process_s: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    forward_share: list[float] = field(default_factory=list)

    def add(self, run: Run, n_images: int) -> None:
        """Add one run."""
        wall = run.record["seconds"]["wall"]
        self.s_per_image.append(wall / n_images)
        self.process_s.append(run.process_s)
        self.peak_mb.append(run.peak_mb)
        if "forward" in run.record["seconds"]:
            self.forward_share.append(run.record["seconds"]["forward"] / wall)

    def as_dict(self) -> dict[str, list[float]]:
        """Return the values to save."""
        return {name: values for name, values in vars(self).items() if values}


@dataclass
class Run:
    """A process that has ended: its record, duration and peak memory."""

    record: dict[str, Any]
    process_s: float
    peak_mb: float


class Failed(Exception):
    """A process of a contender failed; the message is the end of its output."""


@dataclass
class Bench:
    """The runs of one case.

    Attributes:
        name: The case's.
        scratch: Where the contenders write.
        device: Where the model runs.
        n_images: How many images the case has.
        variants: Overrides for d2run, a list for each setting to measure.
        peers: The contenders to compare with; "naive" is needed to compare the results.
        floors: Whether to measure the floor of each variant.
        measured: By contender.
        agreements: By variant.
        failures: What went wrong, by variant.
    """

    name: str
    scratch: Path
    device: str
    n_images: int
    variants: list[list[str]]
    peers: tuple[str, ...] = PEERS
    floors: bool = True
    measured: dict[str, Measured] = field(default_factory=lambda: defaultdict(Measured))
    agreements: dict[str, Agreement] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    _judged: dict[str, Agreement] = field(default_factory=dict)

    @property
    def case(self) -> Path:
        """Directory of the images and the model."""
        return self.scratch / "case"

    def run(self, pairs: int, done: Callable[[Bench], None] = lambda _: None) -> None:
        """Run everything ``pairs`` times, alternately, and compare the results of the first.

        Args:
            pairs: How often each contender runs.
            done: Called after each variant.

        Raises:
            Failed: The case or a peer failed.
        """
        write_case(self.name, self.scratch, self.n_images)
        for pair in range(pairs):
            for name in self.peers:
                self.run_peer(name, name)
            for variant in self.variants:
                if label(variant) not in self.failures:
                    self._variant(variant, first=not pair)
                    done(self)

    def _variant(self, variant: list[str], first: bool) -> None:
        name = label(variant)
        try:
            run = self._job(variant)
            if first:
                self.agreements[name] = self._agreement(variant, run)
            if self.floors:
                self.run_peer("floor", f"floor of {name}", *variant)
        except Failed as exc:
            self.failures[name] = str(exc)
            self.measured.pop(name, None)
            report.say(f"  {name}: FAILED: {exc}")

    @property
    def holds(self) -> bool:
        """Whether all variants succeeded and agree."""
        return not self.failures and all(each.holds for each in self.agreements.values())

    def _job(self, variant: list[str]) -> Run:
        output = self.scratch / "d2run"
        shutil.rmtree(output, ignore_errors=True)  # otherwise the run would resume: nothing to do
        overrides = job_overrides(self.case, self.device, variant)
        command = [str(ROOT / "run.py"), *overrides, f"output={output}"]
        return self._process(label(variant), command, output)

    def run_peer(self, contender: str, name: str, *overrides: str) -> None:
        """Run one of contenders.py and measure it under a name."""
        output = self.scratch / contender
        output.mkdir(exist_ok=True)
        script = str(Path(__file__).with_name("contenders.py"))
        arguments = [contender, str(self.case), str(output), self.device, *overrides]
        self._process(name, [script, *arguments], output)

    def _process(self, name: str, command: list[str], output: Path) -> Run:
        run = finished([sys.executable, *command], self.scratch / "log", output / "run.json")
        self.measured[name].add(run, self.n_images)
        each = run.record["seconds"]["wall"] / self.n_images
        report.say(f"  {name}: {each:.4f} s per image")
        return run

    def _agreement(self, variant: list[str], run: Run) -> Agreement:
        """Compare the variant's latest results with those of DefaultPredictor.

        Half precision and other pixels are compared with trained weights: random ones put many
        scores and overlaps right at a threshold, where any rounding decides.
        """
        line = line_of(run.record)
        if line == "half" and self.name != "shapes":
            return self._on_trained_weights(variant)
        ours = of_job(self.scratch / "d2run" / "predictions.jsonl")
        found = compare(ours, of_naive(self.scratch / "naive" / "results.json"), line)
        report.say(
            f"  {label(variant)}: {'agrees' if found.holds else 'DOES NOT AGREE'} with "
            f"DefaultPredictor by the {line} line: {found.paired:.2%} of {found.detections} "
            f"detections paired, {found.same_masks:.2%} of their masks byte-identical"
        )
        return found

    def _on_trained_weights(self, variant: list[str]) -> Agreement:
        settings = label([each for each in variant if not each.startswith("batch_size=")])
        if settings in self._judged:
            return self._judged[settings]
        scratch = self.scratch / "shapes"
        judge = Bench("shapes", scratch, self.device, _JUDGED_SCENES, [])
        report.say("  on shapes, whose weights are trained:")
        if not scratch.exists():
            write_case("shapes", scratch, _JUDGED_SCENES)
            judge.run_peer("naive", "naive")
        self._judged[settings] = judge._agreement(variant, judge._job(variant))
        return self._judged[settings]


def write_case(name: str, scratch: Path, n_images: int) -> None:
    """Write images and model into ``scratch/case``."""
    scratch.mkdir(exist_ok=True)
    script = str(Path(__file__).with_name("cases.py"))
    arguments = [name, str(scratch / "case"), str(n_images)]
    finished([sys.executable, script, *arguments], scratch / "log")


def finished(command: list[str], log: Path, record: Path | None = None) -> Run:
    """Run a process to its end; if this one is interrupted, it is stopped.

    Args:
        command: What to run.
        log: Takes its output, for when it fails.
        record: The JSON file that it leaves.

    Raises:
        Failed: It did.
    """
    started = perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        with suppress(ChildProcessError):
            os.waitpid(process.pid, 0)
        raise
    finally:
        process.returncode = 0  # it has been waited for
    seconds = perf_counter() - started
    if os.waitstatus_to_exitcode(status):
        raise Failed(f"{' '.join(command)}:\n{log.read_text(errors='replace')[-4000:]}")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    left = json.loads(record.read_text()) if record else {}
    return Run(left, seconds, usage.ru_maxrss * unit / 1e6)


def label(variant: list[str]) -> str:
    """Return the name of a d2run variant in the tables."""
    return " ".join(["d2run", *variant])
