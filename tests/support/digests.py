"""Records the SHA-256 of everything a set of runs writes, to compare two versions of d2run.

    python tests/support/digests.py record OLD.json --repo OLD_CHECKOUT --work FOLDER
    python tests/support/digests.py record NEW.json --work FOLDER
    python tests/support/digests.py compare OLD.json NEW.json

Each case is a command of ``run.py`` in a subprocess with next to no environment, so two checkouts
can be compared whatever their modules are called. Inputs and weights are generated once into the
work folder and reused. The outputs stay in ``FOLDER/runs/<name of the JSON file>/<case>``, to look
into a difference. Compare records of one machine and one Python environment only: other cores or
library versions give other digits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from digest_cases import ROOT, SCENES, Case, cases, prepare

# Old names, and what they are called now: options, and keys of JSON files.
RENAMED = {
    "runnable.least_score": "runnable.min_score",
    "runnable.most": "runnable.max_instances",
    "stage": "step",  # of a failure
}
# Files that describe the run, not its results.
BOOKKEEPING = (
    ".*", "failures.jsonl", "inputs.jsonl", "ledger.sqlite*", "run.json", "run.log",
    "manifest.sha256", "skipped.jsonl", "status.json",
)  # fmt: skip
# What is recorded of an input and of a failure: no messages, counts of attempts or times.
_ASSET = ("asset", "size", "sha256", "outcome", "frames", "dropped")
_FAILURE = ("asset", "stage", "step", "error")
LIBRARIES = ("torch", "torchvision", "detectron2", "numpy", "opencv-python", "pillow", "simplejpeg")

# Recording


def record(out: Path, repo: Path, work: Path, only: list[str]) -> None:
    """Run the cases and write their digests; with ``only``, into what ``out`` already has."""
    found: dict[str, Any] = {"cases": {}}
    if only and out.exists():
        found = json.loads(out.read_bytes())
    found["machine"] = machine()
    known: dict[str, str] = {}
    for case in cases():
        if only and not any(fnmatch(case.name, pattern) for pattern in only):
            continue
        needs = [case.inputs, *(["weights"] if "{work}" in "".join(case.arguments) else [])]
        for name in needs:
            prepare(work, name)
            if name not in known:
                known[name] = _of_tree(work / name)
        start = time.monotonic()
        folder = work / "runs" / out.stem / case.name
        run_case(case, folder, repo, work)
        result = {"inputs": [known[name] for name in needs], **digests(folder)}
        found["cases"][case.name] = result
        out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        say(
            f"{case.name}: {result['frames']} frames, {result['instances']} instances, "
            f"{len(result['failures'])} failures, {len(result['files'])} files, "
            f"{time.monotonic() - start:.1f} s"
        )
    cut, whole = (found["cases"].get(f"shapes/{name}") for name in ("killed", "scenes"))
    if cut and whole and cut["files"] != whole["files"]:
        sys.exit("error: the resumed run differs from the uninterrupted one")


def run_case(case: Case, folder: Path, repo: Path, work: Path) -> None:
    """Run the case's command into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    arguments = [spelled(repo, text.format(work=work)) for text in case.arguments]
    job = [f"input={work / case.inputs}", f"output={folder}", "device=cpu", "quiet=true"]
    command = [sys.executable, "run.py", *arguments, *job]
    home = work / "home"
    home.mkdir(exist_ok=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "D2RUN_HOME": str(home / "d2run")}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        options: dict[str, Any] = {"cwd": repo, "env": environment, "stdout": log, "stderr": log}
        if case.killed:
            _kill_halfway(subprocess.Popen(command, **options), folder / "predictions.jsonl")
        status = subprocess.run(command, check=False, **options).returncode
    if status != case.status:
        sys.exit(f"error: {case.name} exited with {status}, expected {case.status}; see {log.name}")


def _kill_halfway(process: subprocess.Popen[bytes], journal: Path) -> None:
    while process.poll() is None:
        lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
        if lines >= SCENES // 2:
            process.send_signal(signal.SIGKILL)
            process.wait()
            break
        time.sleep(0.01)
    if process.returncode != -signal.SIGKILL:
        sys.exit(f"error: the run to kill had ended, with {process.returncode}")
    lines = journal.read_bytes().count(b"\n")
    if lines >= SCENES:
        sys.exit("error: the run to kill had written all its results")
    say(f"killed after {lines} of {SCENES} images")


def spelled(repo: Path, argument: str) -> str:
    """Write an option by its new name if the checkout has it."""
    key, _, value = argument.partition("=")
    group, _, name = RENAMED.get(key, "").partition(".")
    if not name:
        return argument
    options = (repo / "conf" / group / "detectron2.yaml").read_text()
    return f"{RENAMED[key]}={value}" if f"\n{name}:" in options else argument


def digests(folder: Path) -> dict[str, Any]:
    """What a run wrote: a digest of each result file, and the rest without texts and times."""
    predictions = _lines(folder / "predictions.jsonl")
    return {
        "frames": len(predictions),
        "instances": sum(len(line.get("instances", ())) for line in predictions),
        "files": {
            path.relative_to(folder).as_posix(): _sha256(path.read_bytes())
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not _is_bookkeeping(path.relative_to(folder))
        },
        "assets": _sha256(_only(_ASSET, folder / "inputs.jsonl")),
        "failures": _only(_FAILURE, folder / "failures.jsonl"),
        "skipped": _only(("path",), folder / "skipped.jsonl"),
    }


def machine() -> dict[str, Any]:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "none"
    cores = len(os.sched_getaffinity(0))
    return {"python": platform.python_version(), "cores": cores, **versions}


def _is_bookkeeping(path: Path) -> bool:
    return any(fnmatch(path.parts[0], pattern) for pattern in BOOKKEEPING)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def _only(keys: tuple[str, ...], path: Path) -> list[dict[str, Any]]:
    return [{key: line[key] for key in keys if key in line} for line in _lines(path)]


def _sha256(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return hashlib.sha256(data).hexdigest()


def _of_tree(folder: Path) -> str:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return _sha256([(str(p.relative_to(folder)), _sha256(p.read_bytes())) for p in files])


# Comparing


def compare(old: Path, new: Path, only: list[str], ignore: list[str]) -> int:
    """Print what differs; return how many values do."""
    before, after = (json.loads(path.read_bytes()) for path in (old, new))
    for key, value in before["machine"].items():
        if value != after["machine"].get(key):
            say(f"note: {key} was {value}, is {after['machine'].get(key)}")
    left, right = (dict(_flat(_renamed(found["cases"]))) for found in (before, after))
    keys = [
        key
        for key in sorted({**left, **right})
        if (not only or any(fnmatch(key, f"{pattern}/*") for pattern in only))
        and not any(fnmatch(key, f"*/{pattern}") for pattern in ignore)
    ]
    differing = [key for key in keys if left.get(key) != right.get(key)]
    for key in differing:
        say(f"{key}: {left.get(key, 'absent')} -> {right.get(key, 'absent')}")
    say(f"{len(keys)} values compared, {len(differing)} differ")
    return len(differing)


def _renamed(value: Any) -> Any:
    if isinstance(value, list):
        return [_renamed(each) for each in value]
    if isinstance(value, dict):
        return {RENAMED.get(key, key): _renamed(each) for key, each in value.items()}
    return value


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _flat(each, f"{prefix}/{key}" if prefix else key)
    else:
        yield prefix, value


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record", help="run the cases and write their digests")
    recorder.add_argument("out", type=Path)
    recorder.add_argument("--repo", type=Path, default=ROOT, help="the checkout to run")
    recorder.add_argument("--work", type=Path, default=Path("/tmp/digests_work"))
    recorder.add_argument("--only", nargs="+", default=[], metavar="NAME", help="e.g. 'shapes/*'")
    comparer = commands.add_parser("compare", help="print differences; exit 1 if there are any")
    comparer.add_argument("old", type=Path)
    comparer.add_argument("new", type=Path)
    comparer.add_argument("--only", nargs="+", default=[], metavar="NAME")
    comparer.add_argument(
        "--ignore", nargs="+", default=[], metavar="PATTERN", help="e.g. 'files/overlay/*'"
    )
    commands.add_parser("list", help="print the cases")
    args = parser.parse_args()
    if args.command == "record":
        record(args.out, args.repo.resolve(), args.work.resolve(), args.only)
    elif args.command == "compare":
        return 1 if compare(args.old, args.new, args.only, args.ignore) else 0
    else:
        for case in cases():
            say(f"{case.name}: {' '.join(case.arguments)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
