"""Compare d2run with the scripts that it replaces, on the same images and weights.

    uv run python benchmarks/compare.py --case all --json figures.json
    uv run python benchmarks/compare.py --case r50 --variant runnable=exact --variant runnable=bf16

Each contender is a separate process, one after the other, ``--pairs`` times. The results of each
variant are compared with DefaultPredictor's; if a variant fails or differs, the others still run,
and the exit status is 1. benchmarks/README.md describes contenders and columns.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import report
from bench import PEERS, Bench, Failed
from cases import CASES

_ALL = ("shapes", "r50", "large")


def summary(bench: Bench) -> dict[str, Any]:
    """Return the ratios of each measured variant, and the seconds and memory of each contender."""
    measured = bench.measured
    variants = {}
    for name, agreement in bench.agreements.items():
        if name in bench.failures:
            continue
        ours = measured[name].s_per_image
        variants[name] = {
            peer: report.ratios(ours, measured[peer].s_per_image[: len(ours)])
            for peer in ("naive", "predictor")
            if peer in bench.peers
        }
        if bench.floors:
            floor = measured[f"floor of {name}"].s_per_image
            variants[name]["busy"] = report.ratios(ours, floor)
        variants[name]["forward_share"] = report.spread(measured[name].forward_share)
        variants[name]["agreement"] = agreement.as_dict()
    contenders = {name: each.as_dict() for name, each in measured.items()}
    return {
        "images": bench.n_images,
        "contenders": contenders,
        "variants": variants,
        "failures": bench.failures,
    }


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
    report.table(title, ["contender", "s per image", "s per process", "peak MB"], rows)
    columns = {"naive": "faster than naive", "predictor": "than predictor", "busy": "busy"}
    columns |= {"forward_share": "forward share"}
    rows = [
        [
            variant,
            *(report.shown(each[key]) if key in each else "" for key in columns),
            "agree" if each["agreement"]["holds"] else "DIFFER",
        ]
        for variant, each in found["variants"].items()
    ]
    title = f"{name}: median (min..max) of the pairs"
    report.table(title, ["variant", *columns.values(), "results"], rows)


def measure(
    name: str, args: argparse.Namespace, device: str, save: Callable[[dict[str, Any]], None]
) -> bool:
    """Run one case in a temporary directory.

    Returns:
        Whether all variants succeeded and agree.
    """
    case, variants = CASES[name], [text.split() for text in args.variant or [""]]
    n_images = args.images or case.images * (10 if device.startswith("cuda") else 1)
    with tempfile.TemporaryDirectory(prefix="d2run-bench-") as folder:
        scratch = Path(folder)
        report.say(f"{name}: {n_images} images on {device}")
        peers = tuple(args.peers or PEERS)
        bench = Bench(name, scratch, device, n_images, variants, peers, not args.no_floor)
        try:
            bench.run(args.pairs, lambda bench: save(summary(bench)))
        except Failed as exc:
            sys.exit(f"error: {exc}")
        show(name, summary(bench))
        return bench.holds


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=[*CASES, "all"], default="r50")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:0")
    parser.add_argument(
        "--images", type=report.at_least_one, help="number of images; by default the case's"
    )
    parser.add_argument(
        "--pairs", type=report.at_least_one, default=5, help="how often each contender runs"
    )
    parser.add_argument("--json", type=report.new_file, metavar="FILE")
    parser.add_argument(
        "--variant", action="append", metavar="'OVERRIDE ...'", help="for d2run; may be repeated"
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS, help="by default all; naive is needed")
    parser.add_argument("--no-floor", action="store_true", help="do without the floors and busy")
    args = parser.parse_args()
    if args.peers and "naive" not in args.peers:
        parser.error("--peers needs naive: the results are compared with its")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave through the clean-up

    from pipeline.errors import DeviceError
    from pipeline.system.devices import resolve_device

    try:
        device = resolve_device(args.device)
    except DeviceError as exc:
        parser.error(str(exc))
    names = _ALL if args.case == "all" else [args.case]
    found = {"machine": report.machine(), "device": device, "pairs": args.pairs, "cases": {}}
    held = []
    for name in names:

        def save(case: dict[str, Any], name: str = name) -> None:
            found["cases"][name] = case
            report.save(args.json, found)

        held.append(measure(name, args, device, save))
    if not all(held):
        sys.exit("error: variants failed or differ from DefaultPredictor; see above")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
