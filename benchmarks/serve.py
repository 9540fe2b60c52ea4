"""Requests per second and latency of ``runner=serve``, and of services around DefaultPredictor.

    uv run python benchmarks/serve.py --case shapes --case r50 --json figures.json

Each service is a process of its own, one after the other, with the same weights. Its answers to
all images are compared with those of DefaultPredictor first; then 1, 8 and 32 clients send the
images in turn, each the next one as soon as it has its answer. The floor is the forward alone of
the runnable that d2run uses, without HTTP, decoding or encoding. The clients share the CPU with the
service.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from time import monotonic, perf_counter, sleep
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import report
from agreement import compare
from bench import Bench, Failed, write_case
from cases import CASES, ROOT
from contenders import job_overrides

SERVICES = ("d2run", "fastapi", "bentoml")
_START_S = 300
_HEADERS = {"Content-Type": "image/jpeg"}


@contextmanager
def started(name: str, case: Path, device: str, variant: Sequence[str]) -> Iterator[int]:
    """Run a service while the block runs; yields its port.

    Raises:
        Failed: It does not start.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    services = str(Path(__file__).with_name("services.py"))
    env = os.environ | {"CASE": str(case), "DEVICE": device, "BENTOML_DO_NOT_TRACK": "true"}
    overrides = [o for o in job_overrides(case, device, list(variant)) if "input=" not in o]
    commands = {
        "d2run": [str(ROOT / "run.py"), "runner=serve", f"runner.port={port}", *overrides],
        "fastapi": [services, "fastapi", str(case), device, str(port)],
        "bentoml": ["-m", "bentoml", "serve", f"{services}:Bento", "--port", str(port)],
    }
    log = case.parent / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *commands[name]], stdout=out, stderr=out, cwd=ROOT, env=env
        )
    try:
        _wait_until_ready(port, process, log)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = monotonic() + _START_S
    while monotonic() < until and process.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/openapi.json")
            connection.getresponse()
            return
        except OSError:
            sleep(0.1)
    raise Failed(f"the service did not start:\n{log.read_text(errors='replace')[-4000:]}")


def post(connection: http.client.HTTPConnection, image: bytes) -> bytes:
    """Send an image and return the answer.

    Raises:
        Failed: The service did not answer with status 200.
    """
    connection.request("POST", "/predict", image, _HEADERS)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise Failed(f"status {response.status}: {body[:500]!r}")
    return body


def load(port: int, images: Sequence[bytes], clients: int, requests: int) -> dict[str, float]:
    """Send requests from several clients at once.

    Returns:
        Requests per second, and the median and the 99th percentile of the seconds per request.
    """
    numbers, barrier = itertools.count(), Barrier(clients)

    def client(_: int) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        connection.connect()
        barrier.wait()
        seconds = []
        while (number := next(numbers)) < requests:
            began = perf_counter()
            post(connection, images[number % len(images)])
            seconds.append(perf_counter() - began)
        connection.close()
        return seconds

    with ThreadPoolExecutor(clients) as pool:
        began = perf_counter()
        latencies = sorted(itertools.chain.from_iterable(pool.map(client, range(clients))))
        wall = perf_counter() - began
    return {
        "per_s": requests / wall,
        "p50_s": latencies[len(latencies) // 2],
        "p99_s": latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))],
    }


def answers(port: int, paths: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Return the instances of each image."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    return {p.name: json.loads(post(connection, p.read_bytes()))["instances"] for p in paths}


def measure(name: str, args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Measure all services on one case.

    Raises:
        Failed: A service failed.
    """
    n_images = args.images or CASES[name].images
    write_case(name, scratch, n_images)
    case = scratch / "case"
    paths = sorted((case / "images").iterdir())
    images = [path.read_bytes() for path in paths]
    floor = Bench(name, scratch, args.device, n_images, [])
    found: dict[str, Any] = {"images": n_images, "services": {s: {} for s in args.services}}
    want: dict[str, list[dict[str, Any]]] = {}
    for _ in range(args.rounds):
        floor.run_peer("floor", "floor", *args.variant)
        for service in sorted(args.services, key=lambda s: s == "d2run"):
            figures = found["services"][service]
            with started(service, case, args.device, args.variant) as port:
                got = answers(port, paths)  # also warms it up
                if service != "d2run":
                    want = want or got
                elif want:
                    line = "exact" if "runnable=exact" in args.variant else "fp32"
                    figures["agreement"] = compare(got, want, line).as_dict()
                for clients in args.clients:
                    n = max(args.requests or 4 * n_images, 2 * clients)
                    result = load(port, images, clients, n)
                    figures.setdefault(str(clients), []).append(result)
                    report.say(
                        f"  {service}, {clients} clients: {result['per_s']:.2f} requests/s, "
                        f"p50 {result['p50_s']:.3f} s, p99 {result['p99_s']:.3f} s"
                    )
    found["floor_per_s"] = [1 / each for each in floor.measured["floor"].s_per_image]
    return found


def show(name: str, found: dict[str, Any], clients: Sequence[int]) -> None:
    """Print the table of one case."""
    rows = []
    ours = found["services"].get("d2run", {})
    for service, figures in found["services"].items():
        for n in map(str, clients):
            runs = figures[n]
            rate = [run["per_s"] for run in runs]
            times = [a["per_s"] / b for a, b in zip(ours.get(n, []), rate, strict=False)]
            rows.append(
                [
                    f"{service}, {n} clients",
                    report.shown(report.spread(rate)),
                    report.shown(report.spread([run["p50_s"] for run in runs]), 3),
                    report.shown(report.spread([run["p99_s"] for run in runs]), 3),
                    report.shown(
                        report.spread(
                            [a / b for a, b in zip(rate, found["floor_per_s"], strict=True)]
                        )
                    ),
                    report.shown(report.spread(times)) if times and service != "d2run" else "",
                ]
            )
    columns = ["service", "requests/s", "p50 s", "p99 s", "of the floor", "d2run is faster"]
    report.table(f"{name}: {found['images']} images, median (min..max)", columns, rows)
    if "agreement" in ours:
        agreement = ours["agreement"]
        verdict = "agree" if agreement["holds"] else "DIFFER"
        report.say(f"answers {verdict}: {agreement['paired']:.2%} of {agreement['detections']}")


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--device", default="cpu", help="cpu, cuda:0")
    parser.add_argument("--images", type=report.at_least_one, help="by default the case's")
    parser.add_argument("--requests", type=report.at_least_one, help="by default 4 per image")
    parser.add_argument("--rounds", type=report.at_least_one, default=3)
    parser.add_argument("--clients", type=report.at_least_one, nargs="+", default=[1, 8, 32])
    parser.add_argument("--services", nargs="+", choices=SERVICES, default=list(SERVICES))
    parser.add_argument("--variant", nargs="*", default=[], help="overrides for d2run")
    parser.add_argument("--json", type=report.new_file, metavar="FILE")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave through the clean-up
    found = {"machine": report.machine(), "device": args.device, "cases": {}}
    holds = True
    for name in args.case or ["shapes", "r50"]:
        report.say(f"{name} on {args.device}")
        with tempfile.TemporaryDirectory(prefix="d2run-bench-") as folder:
            try:
                case = measure(name, args, Path(folder) / "scratch")
            except Failed as exc:
                sys.exit(f"error: {exc}")
        show(name, case, args.clients)
        found["cases"][name] = case
        report.save(args.json, found)
        holds &= case["services"].get("d2run", {}).get("agreement", {}).get("holds", True)
    if not holds:
        sys.exit("error: the answers differ from DefaultPredictor's; see above")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
