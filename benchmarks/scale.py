"""What one asset costs the driver, planning, resuming and merging, and what failures cost a job.

    uv run python benchmarks/scale.py --assets 100000 1000000 --json scale.json
    uv run python benchmarks/scale.py --parts merge --assets 10000000 --instances 1
    uv run python benchmarks/scale.py --parts resume --assets 10000000 --instances 1 --links
    uv run python benchmarks/scale.py --parts failures

Parts: ``driver`` commits outcomes that nobody computes (ledger, journal, lists); ``plan`` and
``resume`` list files that are all new, or all done; ``merge`` combines shards; ``failures`` kills
real processes and simulates the same. Every measurement is a process of its own. CPU seconds are
shown beside wall seconds, because those depend on what else the machine does.

Ten million files need more inodes than many disks have, so with ``--links`` 50,000 names share one
file. Listing and comparing them is the same work. Ten million results of three instances take 14 GB
in shards and merged, of one instance 10 GB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import report
import scale_failures

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.job import Outcome
from pipeline.recorded.manifest import write_manifest
from pipeline.sharding import FOLDER, Shard, shard_of
from pipeline.system.spool import Spool
from runners.rundir import in_flight
from runners.rundir.commit import Session, finish
from runners.rundir.journal import Position
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.ledger.ledger import Entry, Ledger
from runners.rundir.owned.names import LISTS

PARTS = ("driver", "plan", "resume", "merge", "failures")
_IN_A_FOLDER = 1000
_LINKS = 50  # folders whose names share one file: ext4 allows 65,000 links
_MTIME_NS = 1_700_000_000_000_000_000
_JOB = ("model=mask_rcnn", "runnable=fake", "sink=[]", "quiet=true")


@dataclass(frozen=True)
class Cost:
    """What a process took.

    Attributes:
        wall_s: Seconds from start to end.
        cpu_s: Seconds of CPU, user and system.
        peak_mb: Largest resident size in MB.
        status: Exit status.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    status: int


def measured(function: Callable[[], object]) -> Cost:
    """Run a function in a fork of this process, which has imported next to nothing."""
    sys.stdout.flush()
    started = time.monotonic()
    child = forked(function)
    _, status, usage = os.wait4(child, 0)
    return Cost(
        time.monotonic() - started,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss / 1000,
        os.waitstatus_to_exitcode(status),
    )


def forked(function: Callable[[], object]) -> int:
    """Run a function in a fork; return its process id."""
    if child := os.fork():
        return child
    status = 70
    try:
        status = int(function() or 0)  # type: ignore[call-overload]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def command(*arguments: str) -> Callable[[], int]:
    """Return a function that runs d2run's command, its output discarded."""

    def run() -> int:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        from runners.entry import main

        sys.argv = sys.orig_argv = ["run.py", *arguments]
        return main()

    return run


class Done:
    """An asset that somebody else has processed.

    Attributes:
        id: Id of the asset.
    """

    is_still = True
    path = Path()
    size_bytes = 100_000
    mtime_ns = _MTIME_NS

    def __init__(self, number: int) -> None:
        self.id = asset_id(number)

    def fingerprint(self) -> str:
        """Return a digest."""
        return hashlib.sha256(self.id.encode()).hexdigest()

    def frames(self) -> Iterator[Any]:
        """Yield nothing: nobody asks."""
        return iter(())


class NoWork:
    """An executor that returns the outcomes at once, with one line of a usual length each."""

    def run(self, assets: Iterable[Any]) -> Iterator[Outcome]:
        """Yield the outcomes."""
        for asset in assets:
            records = Spool()
            records.append(line_of(asset.id, 0, 3))
            yield Outcome(asset, 1, records=records)


def asset_id(number: int) -> str:
    """Return an id; the ids sort like their numbers."""
    return f"{number // _IN_A_FOLDER:05d}/{number:08d}.jpg"


def line_of(name: str, image_id: int, instances: int) -> bytes:
    """Return a line of predictions.jsonl with instances without masks."""
    box = '{"box": [10.25, 20.5, 110.75, 220.125], "score": 0.987654, "class_id": 0, '
    text = f'"image_id": {image_id}, "instances": [' + ", ".join(
        [f'{box}"class_name": "person"}}'] * instances
    )
    frame = '"frame": 0, "time_s": null, "width": 640, "height": 480, '
    return f'{{"asset": "{name}", {frame}{text}]}}\n'.encode()


def driver(folder: Path, n: int) -> dict[str, Any]:
    """Commit outcomes as a batch does, then complete the lists."""
    job: Any = SimpleNamespace(
        output=folder / "out", sinks={}, aggregates={}, source=None, config={"sink": {}}
    )
    job.output.mkdir()

    def commit() -> None:
        assets = ((Done(i), i) for i in range(n))
        with (
            Ledger(job.output / LEDGER) as ledger,
            Session(job, ledger, executor=NoWork()) as session,
        ):
            for _ in session.process(assets):
                pass

    def complete() -> None:
        with Ledger(job.output / LEDGER) as ledger:
            finish(job, ledger)

    found = {"commit": asdict(measured(commit)), "finish": asdict(measured(complete))}
    return found | {"bytes": sizes(job.output)}


def sizes(output: Path) -> dict[str, int]:
    """Return the size of each file of a run."""
    return {path.name: path.stat().st_size for path in output.iterdir() if path.is_file()}


def make_files(folder: Path, n: int, *, links: bool) -> None:
    """Write files of one byte, modified long ago.

    Args:
        folder: Their directory, created.
        n: Their number.
        links: Whether most are hard links to another.
    """
    for first in range(0, n, _IN_A_FOLDER):
        (folder / asset_id(first)).parent.mkdir(parents=True)
        origin = asset_id(first - first % (_LINKS * _IN_A_FOLDER))
        for i in range(first, min(first + _IN_A_FOLDER, n)):
            name = f"{folder}/{asset_id(i)}"
            if links and asset_id(i) != origin:
                os.link(f"{folder}/{origin}", name)
                continue
            descriptor = os.open(name, os.O_CREAT | os.O_WRONLY)
            os.write(descriptor, b"x")
            os.utime(descriptor, ns=(_MTIME_NS, _MTIME_NS))
            os.close(descriptor)


def plan(folder: Path, n: int, *, links: bool = False) -> dict[str, Any]:
    """Plan for files that are all new."""
    make_files(folder / "in", n, links=links)
    arguments = ("runner=plan", f"input={folder}/in", f"output={folder}/new")
    return {"plan": asdict(measured(command(*_JOB, *arguments)))}


def resume(folder: Path, n: int, *, links: bool = False, instances: int = 3) -> dict[str, Any]:
    """Resume a run over the same files that has done them all."""
    if not (folder / "in").exists():
        make_files(folder / "in", n, links=links)
    output = folder / "done"
    (folder / "empty").mkdir()
    (folder / "in").rename(folder / "files")
    (folder / "empty").rename(folder / "in")
    arguments = (*_JOB, f"input={folder}/in", f"output={output}")
    measured(command(*arguments))  # a run of no inputs, which is filled
    (folder / "in").rmdir()
    (folder / "files").rename(folder / "in")
    measured(lambda: fill(output, range(n), instances, size=1))
    cost = measured(command(*arguments))
    assert not cost.status
    record = json.loads((output / "run.json").read_bytes())
    assert record["counts"] == {"done": 0, "failed": 0, "earlier": n}, record["counts"]
    return {"resume": asdict(cost), "bytes": sizes(output)}


def fill(output: Path, numbers: Iterable[int], instances: int, size: int = 100_000) -> int:
    """Add finished inputs to a run; return their number."""
    entries, offset, image_id = list[Entry](), 0, 1
    with Ledger(output / LEDGER) as ledger, (output / PREDICTIONS).open("wb") as predictions:
        for place in numbers:
            name = asset_id(place)
            line = line_of(name, image_id, instances)
            predictions.write(line)
            sha256 = hashlib.sha256(name.encode()).hexdigest()
            entry = Entry(name, place, "done", size, _MTIME_NS, sha256, offset, len(line), frames=1)
            entries.append(entry)
            offset += len(line)
            image_id += 1
            if len(entries) >= 4096:
                ledger.put(entries)
                entries.clear()
        ledger.put(entries)
        ledger.set_fact("finished", True)
        ledger.commit(Position(offset, image_id))
    return image_id - 1


def make_shard(
    output: Path, shard: Shard, own: Iterable[int], n: int, given: str, instances: int
) -> None:
    """Make the run directory of a finished shard."""
    path = shard.directory(output)
    run = command(*_JOB, given, f"output={output}", f"runner.shard={shard}")
    if status := run():
        raise SystemExit(status)
    count = fill(path, own, instances)
    record = json.loads((path / "run.json").read_bytes())
    names = [*LISTS, *(name for names in record["outputs"].values() for name in names)]
    record["manifest"]["sha256"] = write_manifest(path, names, {}, 0).sha256
    record["shard"] |= {"inputs": n, "own": count, "sha256": f"{n:064d}"}
    (path / "run.json").write_text(json.dumps(record))


def merge(folder: Path, n: int, shards: int, instances: int) -> dict[str, Any]:
    """Merge shards, then once more with nothing to do."""
    (folder / "none").mkdir()
    output, given = folder / "merged", f"input={folder}/none"
    own = [array("L") for _ in range(shards)]
    for i in range(n):
        own[shard_of(asset_id(i), shards) - 1].append(i)
    for k in range(shards):
        made = partial(make_shard, output, Shard(k + 1, shards), own[k], n, given, instances)
        assert not measured(made).status
    own.clear()  # or the processes below would inherit it
    arguments = ("runner=merge", f"output={output}", "quiet=true")
    first, again = (asdict(measured(command(*arguments))) for _ in range(2))
    with (output / PREDICTIONS).open("rb") as lines:
        assert sum(1 for _ in lines) == n
    assert (output / FOLDER).is_dir()
    return {"shards": shards, "merge": first, "again": again, "bytes": sizes(output)}


def failures(folder: Path, inputs: int, deaths: int, seed: int) -> dict[str, Any]:
    """Kill real runs at random moments, and simulate the same."""
    import cv2
    import numpy as np

    for i in range(inputs):
        path = folder / "in" / f"{i:05d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(".png", np.full((24, 32, 3), i % 251, np.uint8))[1].tobytes())
    arguments = (*_JOB, f"input={folder}/in")
    whole = measured(command(*arguments, f"output={folder}/whole"))
    nothing = measured(command(*arguments, f"output={folder}/whole"))  # starts, and ends
    rate = inputs / max(whole.wall_s - nothing.wall_s, 1e-3)
    whole_size = (folder / "whole" / PREDICTIONS).stat().st_size
    rng, redone = random.Random(seed), list[int]()
    for i in range(deaths):
        output = folder / f"killed {i}"
        child = forked(command(*arguments, f"output={output}"))
        wait_for(output / PREDICTIONS, int(whole_size * rng.uniform(0.05, 0.9)))
        os.kill(child, signal.SIGKILL)
        if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            raise SystemExit("a run ended before it was killed; add --inputs")
        with (output / in_flight.NAME).open("rb") as lines:  # started, and not committed
            redone.append(len(set(in_flight.ids(lines))))
    simulated = scale_failures.redone_per_death(rate, deaths, seed)
    return {
        "rate": rate,
        "deaths": deaths,
        "redone": {"measured": report.spread(redone), "simulated": report.spread(simulated)},
        "mean": {"measured": sum(redone) / deaths, "simulated": sum(simulated) / deaths},
        "jobs": scale_failures.jobs(seed),
    }


def wait_for(path: Path, size: int) -> None:
    """Wait until a file has a size."""
    while not (path.exists() and path.stat().st_size >= size):
        time.sleep(0.0005)


def show(n: int, name: str, cost: dict[str, Any]) -> list[str]:
    """Return a row of the table."""
    micros = 1e6 * cost["cpu_s"] / n
    return [
        f"{name}, {n:,} assets",
        f"{cost['wall_s']:.1f}",
        f"{cost['cpu_s']:.1f}",
        f"{micros:.1f}",
        f"{cost['peak_mb']:.0f}",
    ]


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=report.at_least_one, nargs="+", default=[100_000])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--shards", type=report.at_least_one, default=8)
    parser.add_argument("--instances", type=report.at_least_one, default=3, help="per line")
    parser.add_argument("--links", action="store_true", help="most files are hard links")
    parser.add_argument("--inputs", type=report.at_least_one, default=3000, help="of failures")
    parser.add_argument("--deaths", type=report.at_least_one, default=20, help="of failures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=report.new_file, metavar="FILE")
    args = parser.parse_args()
    found: dict[str, Any] = {"machine": report.machine(), "assets": {}}
    rows = []
    for n in args.assets:
        costs: dict[str, Any] = {}
        with tempfile.TemporaryDirectory(prefix="d2run-bench-") as name:
            if "driver" in args.parts:
                costs["driver"] = driver(Path(name), n)
            if "plan" in args.parts:
                costs["plan"] = plan(Path(name), n, links=args.links)
            if "resume" in args.parts:
                resumed = resume(Path(name), n, links=args.links, instances=args.instances)
                costs["resume"] = resumed
            if "merge" in args.parts:
                costs["merge"] = merge(Path(name), n, args.shards, args.instances)
        found["assets"][n] = costs
        for part in costs.values():
            rows += [show(n, key, cost) for key, cost in part.items() if "cpu_s" in str(cost)]
    if rows:
        columns = ["step", "wall s", "CPU s", "us of CPU per asset", "peak MB"]
        report.table("Scale", columns, rows)
    if "failures" in args.parts:
        with tempfile.TemporaryDirectory(prefix="d2run-bench-") as name:
            found["failures"] = failures(Path(name), args.inputs, args.deaths, args.seed)
        scale_failures.show(found["failures"])
    report.save(args.json, found)


if __name__ == "__main__":
    main()
