"""Run d2run against what its users would otherwise run, on the same pictures and weights.

    uv run python benchmarks/compare.py --case all --json figures.json
    uv run python benchmarks/compare.py --case r50 --variant runnable=exact --variant runnable=bf16

Each contender is a process of its own, one after the other, ``--pairs`` times; before a speed is
printed, the results are compared. docs/performance.md says what is what.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import report
from agreement import Agreement, compare, line_of, of_job, of_naive
from cases import CASES, ROOT
from contenders import job_overrides

_PEERS = ("naive", "predictor", "forward")
_JUDGED_SCENES = 200  # some 1,000 boxes: of fewer, two or three decide


@dataclass
class Measured:
    """What each process of a contender took, in the order of the pairs."""

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
        """Return what is saved."""
        return {name: values for name, values in vars(self).items() if values}


@dataclass
class Run:
    """One process that has ended: its record, how long it lived and its peak memory."""

    record: dict[str, Any]
    process_s: float
    peak_mb: float


@dataclass
class Bench:
    """The runs of one case.

    Attributes:
        name: The case's.
        scratch: Where the contenders write.
        device: Where the model runs.
        n_images: How many pictures the case has.
        variants: Overrides for d2run, a list for each setting to measure.
        measured: By contender.
        agreements: By variant.
    """

    name: str
    scratch: Path
    device: str
    n_images: int
    variants: list[list[str]]
    measured: dict[str, Measured] = field(default_factory=lambda: defaultdict(Measured))
    agreements: dict[str, Agreement] = field(default_factory=dict)

    @property
    def case(self) -> Path:
        """Where the pictures and the model are."""
        return self.scratch / "case"

    def run(self, pairs: int) -> None:
        """Run everything ``pairs`` times, alternately, and compare the results of the first."""
        write_case(self.name, self.scratch, self.n_images)
        for pair in range(pairs):
            for name in _PEERS:
                self._peer(name, name)
            for variant in self.variants:
                run = self._job(variant)
                if not pair:
                    self.agreements[label(variant)] = self._agreement(variant, run)
                self._peer("floor", f"floor of {label(variant)}", *variant)

    def _job(self, variant: list[str]) -> Run:
        output = self.scratch / "d2run"
        shutil.rmtree(output, ignore_errors=True)  # or it would go on, with nothing to do
        overrides = job_overrides(self.case, self.device, variant)
        command = [str(ROOT / "run.py"), *overrides, f"output={output}"]
        return self._process(label(variant), command, output)

    def _peer(self, contender: str, name: str, *overrides: str) -> None:
        output = self.scratch / contender
        output.mkdir(exist_ok=True)
        script = str(Path(__file__).with_name("contenders.py"))
        arguments = [contender, str(self.case), str(output), self.device, *overrides]
        self._process(name, [script, *arguments], output)

    def _process(self, name: str, command: list[str], output: Path) -> Run:
        run = finished([sys.executable, *command], self.scratch / "log", output / "run.json")
        self.measured[name].add(run, self.n_images)
        each = run.record["seconds"]["wall"] / self.n_images
        report.say(f"  {name}: {each:.4f} s an image")
        return run

    def _agreement(self, variant: list[str], run: Run) -> Agreement:
        """Compare the variant's latest results with those of DefaultPredictor.

        Half precision is judged where the weights are trained: random ones put many scores and
        overlaps right at a threshold, where any rounding decides.

        Raises:
            SystemExit: They differ by more than the variant may.
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
        if not found.holds:
            sys.exit(f"error: the results of {label(variant)} differ: its speed means nothing")
        return found

    def _on_trained_weights(self, variant: list[str]) -> Agreement:
        scratch = self.scratch / "shapes"
        judge = Bench("shapes", scratch, self.device, _JUDGED_SCENES, [])
        report.say("  on shapes, whose weights are trained:")
        if not scratch.exists():
            write_case("shapes", scratch, _JUDGED_SCENES)
            judge._peer("naive", "naive")
        return judge._agreement(variant, judge._job(variant))


def write_case(name: str, scratch: Path, n_images: int) -> None:
    """Write pictures and model into ``scratch/case``."""
    scratch.mkdir(exist_ok=True)
    script = str(Path(__file__).with_name("cases.py"))
    arguments = [name, str(scratch / "case"), str(n_images)]
    finished([sys.executable, script, *arguments], scratch / "log")


def finished(command: list[str], log: Path, record: Path | None = None) -> Run:
    """Run a process to its end; when this one is interrupted, that one ends, too.

    Args:
        command: What to run.
        log: Takes its output, for when it fails.
        record: The JSON file that it leaves.

    Raises:
        SystemExit: It failed; says with what.
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
        sys.exit(f"error: {' '.join(command)} failed:\n{log.read_text(errors='replace')[-4000:]}")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    left = json.loads(record.read_text()) if record else {}
    return Run(left, seconds, usage.ru_maxrss * unit / 1e6)


def label(variant: list[str]) -> str:
    """Return how a d2run variant is called in the tables."""
    return " ".join(["d2run", *variant])


def summary(bench: Bench) -> dict[str, Any]:
    """Return the ratios of each variant and what each contender took."""
    measured = bench.measured
    variants = {}
    for variant in bench.variants:
        name = label(variant)
        ours, floor = measured[name].s_per_image, measured[f"floor of {name}"].s_per_image
        busy = report.ratios(ours, floor)
        variants[name] = {
            "naive": report.ratios(ours, measured["naive"].s_per_image),
            "predictor": report.ratios(ours, measured["predictor"].s_per_image),
            "busy": busy,
            "forward_share": report.spread(measured[name].forward_share),
            "agreement": bench.agreements[name].as_dict(),
        }
    contenders = {name: each.as_dict() for name, each in measured.items()}
    return {"images": bench.n_images, "contenders": contenders, "variants": variants}


def show(name: str, found: dict[str, Any]) -> None:
    """Print the tables of one case."""
    rows = [
        [
            contender,
            report.shown(report.spread(each["s_per_image"]), 4),
            f"{report.spread(each['process_s'])['median']:.1f}",
            f"{max(each['peak_mb']):.0f}",
        ]
        for contender, each in found["contenders"].items()
    ]
    title = f"{name}: {found['images']} images"
    report.table(title, ["contender", "s an image", "s a process", "peak MB"], rows)
    rows = [
        [
            variant,
            report.shown(each["naive"], 2, "x"),
            report.shown(each["predictor"], 2, "x"),
            report.shown(each["busy"]),
            report.shown(each["forward_share"]),
        ]
        for variant, each in found["variants"].items()
    ]
    columns = ["variant", "faster than naive", "than predictor", "busy", "forward share"]
    report.table(f"{name}: median (min..max) of the pairs", columns, rows)


def measure(name: str, args: argparse.Namespace, device: str) -> dict[str, Any]:
    """Run one case in a scratch folder, which is gone afterwards."""
    case, variants = CASES[name], [text.split() for text in args.variant or [""]]
    n_images = args.images or case.images * (10 if device.startswith("cuda") else 1)
    with tempfile.TemporaryDirectory(prefix="d2run-bench-") as folder:
        scratch = Path(folder)
        report.say(f"{name}: {n_images} images on {device}")
        bench = Bench(name, scratch, device, n_images, variants)
        bench.run(args.pairs)
        return summary(bench)


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=[*CASES, "all"], default="r50")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:0")
    parser.add_argument(
        "--images", type=report.at_least_one, help="pictures; by default the case's"
    )
    parser.add_argument(
        "--pairs", type=report.at_least_one, default=5, help="how often each contender runs"
    )
    parser.add_argument("--json", type=report.new_file, metavar="FILE")
    parser.add_argument(
        "--variant", action="append", metavar="'OVERRIDE ...'", help="for d2run; may be repeated"
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave through the clean-up

    from pipeline.devices import resolve_device
    from pipeline.errors import DeviceError

    try:
        device = resolve_device(args.device)
    except DeviceError as exc:
        parser.error(str(exc))
    names = list(CASES) if args.case == "all" else [args.case]
    found = {"machine": report.machine(), "device": device, "pairs": args.pairs, "cases": {}}
    for name in names:
        found["cases"][name] = measure(name, args, device)
        show(name, found["cases"][name])
        report.save(args.json, found)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
