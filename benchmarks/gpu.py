"""Tests and measures d2run on a CUDA device, within minutes and without a network.

    bash benchmarks/gpu.sh [--wheels DIR] [--out DIR] [--device cuda:0] [--minutes 8]

Each step is a process with a time limit: if one fails or hangs, the others still run. Writes
``gpu.json`` and ``gpu.txt`` into ``--out`` after each step. ``--device cpu`` runs the same steps at
tiny sizes, without those that need CUDA.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent

Row = dict[str, Any]
_SECONDS = "images/s"


@dataclass
class Step:
    """One process and its outcome.

    Attributes:
        name: In the report.
        command: With ``{rows}`` for the file that gets the rows, one JSON object per line.
        limit_s: Seconds after which it is killed.
        needs_cuda: Whether it is skipped on other devices.
        status: ``waiting``, then ``done``, ``failed``, ``timed out``, ``skipped`` or ``not run``.
        seconds: How long it took.
        message: Why it failed, in one line.
        rows: What it measured; also of a step that did not end well.
    """

    name: str
    command: Sequence[str]
    limit_s: float
    needs_cuda: bool = False
    status: str = "waiting"
    seconds: float = 0.0
    message: str = ""
    rows: list[Row] = field(default_factory=list)

    def run(self, scratch: Path, out: Path, on_cuda: bool, left_s: float) -> None:
        """Run it for ``limit_s`` or, if that is less, the seconds left."""
        limit_s = min(self.limit_s, left_s)
        if self.needs_cuda and not on_cuda:
            self.status, self.message = "skipped", "needs a CUDA device"
            return
        if limit_s < 1:
            self.status, self.message = "not run", "no time left"
            return
        slug = re.sub(r"\W+", "-", self.name)
        rows, log = scratch / f"{slug}.rows", out / f"{slug}.log"
        command = [part.format(rows=rows) for part in self.command]
        started = perf_counter()
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdout=file,
                stderr=file,
                cwd=ROOT,
                env=os.environ | {"TMPDIR": str(scratch)},  # what it leaves when it is killed
                start_new_session=True,
            )
            try:
                status = process.wait(limit_s)
                self.status = "failed" if status else "done"
                self.message = f"status {status}: {_last_line(log)}" if status else ""
            except subprocess.TimeoutExpired:
                self.status, self.message = "timed out", f"after {limit_s:.0f} s"
            finally:  # its children too, also when this process is interrupted
                _kill(process)
        self.seconds = perf_counter() - started
        self.rows = list(read_rows(rows, log))


def read_rows(rows: Path, log: Path) -> Iterator[Row]:
    """Yield the rows of a step: its own, those of compare.py's JSON, or pytest's counts."""
    text = rows.read_text() if rows.exists() else ""
    if '"cases"' in text:
        yield from _compared(json.loads(text)["cases"])
    elif text:
        yield from map(json.loads, text.splitlines())
    else:
        words = re.findall(
            r"^tests/\S+::(\S+) (PASSED|FAILED|ERROR|SKIPPED)", log.read_text(), re.M
        )
        yield from ({"test": test, "outcome": outcome.lower()} for test, outcome in words)


def _compared(cases: dict[str, Any]) -> Iterator[Row]:
    for name, case in cases.items():
        for variant, found in case["variants"].items():
            measured = case["contenders"][variant]
            yield {
                "case": name,
                "variant": variant.removeprefix("d2run").strip() or "default",
                _SECONDS: 1 / measured["s_per_image"][0],
                "x naive": found["naive"]["median"],
                "host peak, MB": max(measured["peak_mb"]),
                "paired": found["agreement"]["paired"],
                "results": "agree" if found["agreement"]["holds"] else "DIFFER",
            }
        for variant, text in case["failures"].items():
            yield {"case": name, "variant": variant, "results": text.splitlines()[-1][:200]}


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):  # no process of its group is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
    return lines[-1][:200]


def steps(device: str, scratch: Path) -> list[Step]:
    """Return the steps in their order, the most important first; 8 minutes in total on CUDA."""
    on_cuda = device.startswith("cuda")
    case = str(scratch / "case")

    def own(name: str, step: str, limit_s: float, *arguments: str) -> Step:
        script = str(HERE / "gpu_steps.py")
        command = [sys.executable, script, step, "{rows}", device, case, *arguments]
        return Step(name, command, limit_s if on_cuda else 600)

    def tests(name: str, which: str, limit_s: float) -> Step:
        options = ["-m", "gpu", "-k", which, "-n", "0", "-v", "-W", "default", "--timeout", "60"]
        file = "tests/detectron2/test_gpu.py"
        command = [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", file]
        return Step(name, command, limit_s, needs_cuda=True)

    def compare(
        case: str, limit_s: float, images: int, variants: list[str], needs_cuda: bool = False
    ) -> Step:
        options = ["--case", case, "--device", device, "--pairs", "1", "--json", "{rows}"]
        options += ["--images", str(images), "--peers", "naive", "--no-floor"]
        options += [f"--variant={variant}" for variant in variants]
        command = [sys.executable, str(HERE / "compare.py"), *options]
        return Step(f"compare {case}", command, limit_s, needs_cuda)

    sizes = (1, 8, 16) if on_cuda else (1, 2)
    precisions = [f"runnable.precision={each}" for each in ("fp32", "bf16", "fp16")]
    plain = [f"{each} batch_size={size}" for each in precisions for size in sizes]
    device_options = "decode.jpeg=nvjpeg runnable.resize_on_device=true"
    there = [f"{each} {device_options}" for each in plain]
    half = [f"{each} batch_size={sizes[1]}" for each in precisions[1:]]
    jobs = ["runnable=exact", f"batch_size={sizes[1]}", *half]
    jobs += [f"{each} {device_options}" for each in half]
    return [
        own("check", "check", 40),
        own("images and model", "case", 40, *(("full", "480") if on_cuda else ("shapes", "4"))),
        tests("tests", "not compile", 80),
        own("parity", "parity", 70, "all" if on_cuda else "mask_rcnn,retinanet"),
        own("forward alone", "floor", 50, ",".join(map(str, sizes)), "0.7" if on_cuda else "0"),
        own("full jobs", "jobs", 110, *(jobs if on_cuda else jobs[:3])),
        compare("r50", 220, 96, ["runnable=exact", *plain, *there], needs_cuda=True),
        compare("shapes", 40, 400, ["", "batch_size=8"])
        if on_cuda
        else compare("shapes", 900, 4, ["runnable=exact", *plain[:2]]),
        tests("test of torch.compile", "compile", 60),
    ]


def goals(found: dict[str, list[Row]]) -> list[Row]:
    """Compare the measurements with the goals: one H100, R50-FPN, 800x1333, RLE in JSONL."""
    jobs = [row for row in found.get("full jobs", []) if _SECONDS in row]
    floors = found.get("forward alone", [])

    def best(*words: str, without: str = " none ") -> Row:
        fits = [
            row
            for row in jobs
            if any(word in row["variant"] for word in words) and without not in row["variant"]
        ]
        return max(fits, key=lambda row: row[_SECONDS], default={})

    naive = best("naive").get(_SECONDS)
    exact, half = best("runnable=exact"), best("bf16", "fp16")
    fastest = max((row for row in jobs), key=lambda row: row[_SECONDS], default={})
    busy = None
    for row in floors:
        if row["precision"] in half.get("variant", "") and (
            f"batch_size={row['batch']}" in half["variant"].split()
        ):
            busy = half[_SECONDS] / row[_SECONDS]
    times = fastest[_SECONDS] / naive if fastest and naive else None
    return [
        _goal("exact fp32, images/s", 58, exact.get(_SECONDS)),
        _goal("half precision, images/s", 101, half.get(_SECONDS)),
        _goal("the fastest job, times the naive script", 5, times),
        _goal("busy: half precision against its forward alone", 0.9, busy),
    ]


def _goal(name: str, target: float, value: float | None) -> Row:
    met = "not measured" if value is None else "met" if value >= target else "MISSED"
    return {"goal": name, "at least": target, "found": value, "result": met}


def write(out: Path, device: str, todo: list[Step], seconds: float) -> None:
    """Write gpu.json and gpu.txt."""
    judged = goals({step.name: step.rows for step in todo})
    record = {"device": device, "seconds": seconds, "goals": judged}
    record["steps"] = [asdict(step) for step in todo]
    (out / "gpu.json").write_text(json.dumps(record, indent=1) + "\n")
    overview = [
        {"step": step.name, "status": step.status, "s": step.seconds, "message": step.message}
        for step in todo
    ]
    parts = [table(f"{device}, {seconds:.0f} s in total", overview)]
    if device.startswith("cuda"):
        parts.append(table("goals, for one H100", judged))
    parts += [table(step.name, step.rows) for step in todo if step.rows]
    (out / "gpu.txt").write_text("\n".join(parts))


def table(title: str, rows: Sequence[Row]) -> str:
    """Return rows as aligned text; the columns are all keys, in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_cell(row.get(key)) for key in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    return "\n".join([title, "-" * len(title), *lines, ""])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1e4 else str(value)


def run(todo: list[Step], device: str, out: Path, scratch: Path, seconds: float) -> bool:
    """Run the steps one after the other and write the report after each.

    Returns:
        Whether none failed.
    """
    started = perf_counter()
    for step in todo:
        left_s = seconds - (perf_counter() - started)
        step.run(scratch, out, device.startswith("cuda"), left_s)
        print(f"{step.name}: {step.status} in {step.seconds:.0f} s {step.message}", flush=True)  # noqa: T201
        write(out, device, todo, perf_counter() - started)
    return all(step.status in ("done", "skipped") for step in todo)


def main() -> int:
    """Run, write, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda:0", help="cuda:N, or cpu for a rehearsal")
    parser.add_argument("--out", type=Path, default=Path("gpu-report"), metavar="DIR")
    parser.add_argument("--seconds", type=float, default=480, help="for all steps together")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave through the clean-up
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="d2run-bench-") as folder:
        scratch = Path(folder)
        fine = run(steps(args.device, scratch), args.device, args.out, scratch, args.seconds)
    print((args.out / "gpu.txt").read_text())  # noqa: T201
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
