"""The record of a run, ``run.json``: enough to explain the run and to repeat it."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import OutputError, printable
from pipeline.job import Job, Report
from pipeline.recorded.manifest import listed_outputs, read_manifest, write_manifest
from pipeline.recorded.signing import remove_signatures, sign_run
from pipeline.redaction import redacted, redacted_text
from pipeline.system.children import find_program
from pipeline.system.descriptors import open_to_read
from pipeline.system.files import write_whole
from pipeline.system.versions import (
    VERSION,
    detectron2_origin,
    library_versions,
    nvidia_driver,
)
from runners.rundir.ledger.duplicates import recorded_duplicates
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.lists import SKIPPED
from runners.rundir.owned.names import LISTS
from runners.rundir.translation import output_errors

_KEPT = ("start", "end", "exit_status", "command", "fingerprint", "device", "counts")
_EARLIER = 20


@dataclass
class Record:
    """Writes ``run.json`` and ``.hydra/`` of a job.

    ``start`` is called once the lock is held and the model is loaded, so that a run that cannot
    start leaves the record of the previous one unchanged.

    Attributes:
        job: The job.
        ledger: The ledger of the output, open.
        device: The device in use and its name.
        warnings: Warnings about the results.
        inputs: The inputs of all runs into the output, in order; ``runner=repair`` reads them.
        outputs: Names that the sinks and aggregates of all runs into the output own.
        killed: Information about the previous run, if it was killed; see ``killed_run``.
        more: Further keys; they replace others of the same name.
    """

    job: Job
    ledger: Ledger
    device: Mapping[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    outputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    killed: Mapping[str, Any] | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._content: dict[str, Any] = {}
        self._kept: Mapping[str, str] = {}  # digests of the outputs when this run started
        self._started_ns = 0

    def start(self) -> None:
        """Write the start of the record.

        Raises:
            OutputError: It cannot be written.
        """
        output = self.job.output
        with output_errors(output):
            for name, content in self.job.hydra_files.items():
                text = yaml.safe_dump(redacted(content), sort_keys=False, allow_unicode=True)
                write_whole(output / ".hydra" / name, text.encode(errors="surrogateescape"))
            self._kept = _kept_digests(output)
            self._content = self._start()
            remove_signatures(output)
            self._save()
            self._started_ns = os.stat(output / "run.json").st_mtime_ns  # noqa: PTH116

    def complete(self, report: Report, private_key: Any = None) -> None:
        """Complete the record of a run whose outputs are complete; write their manifest.

        Args:
            report: The report of the run.
            private_key: Signs the record and the manifest; ``None`` to sign nothing.

        Raises:
            OutputError: An output cannot be read, or a file cannot be written.
        """
        self._write_manifest()
        self.finish(report)
        if private_key is not None:
            with output_errors(self.job.output):
                sign_run(self.job.output, private_key)

    def _write_manifest(self) -> None:
        output, started_s = self.job.output, time.monotonic()
        with output_errors(output):
            names = [*LISTS, *listed_outputs(self.outputs)]
            written = write_manifest(output, names, self._kept, self._started_ns)
        self._content["manifest"] = {
            "sha256": written.sha256,
            "files": len(written.digests),
            "bytes_read": written.n_bytes,
            "seconds": round(time.monotonic() - started_s, 6),
        }

    def finish(self, report: Report) -> None:
        """Complete the record, if its start was written."""
        if not self._content:
            return
        seconds = {step: round(value, 6) for step, value in report.timings.items()}
        done = report.counts.get("done", 0)
        self._content |= {
            "state": "ended",
            "end": _stamp(time.time()),
            "exit_status": report.exit_status,
            "message": redacted_text(report.message),
            "counts": dict(report.counts),
            "totals": dict(report.totals),
            "skipped": dict(report.skipped),
            "duplicates": recorded_duplicates(self.ledger),
            "detections": dict(report.detections),
            "warnings": redacted(self.warnings),
            "busy": round(report.busy, 4),
            "seconds": seconds | {"wall": round(report.wall_s, 6)},
            "slowest": [[printable(name), round(s, 6)] for name, s in report.slowest],
            "inputs_per_s": {
                step: round(done / value, 3)
                for step, value in (seconds | {"wall": report.wall_s}).items()
                if value > 0 and step != "load"
            },
        }
        self._save()

    def _save(self) -> None:
        write_whole(self.job.output / "run.json", json.dumps(self._content, indent=1) + "\n")

    def _start(self) -> dict[str, Any]:
        job, config = self.job, redacted(dict(self.job.config))
        return {
            "d2run": {"version": VERSION, "git_commit": _git_commit()},
            "state": "running",
            "pid": os.getpid(),
            "start": _stamp(job.started),
            "end": None,
            "exit_status": None,
            "counts": {},  # of this run
            "totals": {},  # of the output
            "skipped": {},
            "command": shlex.join(redacted(sys.orig_argv)),
            "cwd": str(Path.cwd()),
            "fingerprint": job.fingerprint(),
            "settings": redacted(job.settings()),
            "inputs": self.inputs,
            "outputs": self.outputs,
            "config": config,
            "model": redacted(job.model.identity())
            | {"class_names": list(job.model.categories.thing_names)}
            | {"stuff_names": list(job.model.categories.stuff_names)}
            | {"categories": asdict(job.model.categories)},
            "limits": asdict(job.limits()),
            "device": self.device,
            "seed": job.config["seed"],
            "versions": _versions(),
            "warnings": redacted(self.warnings),
            "previous": self.killed,
            "earlier": _earlier(job.output, self.killed),
            **({} if job.address is None else {"address": redacted_text(job.address)}),
        } | self.more


def killed_run(output: Path, ledger: Ledger | None) -> dict[str, Any] | None:
    """Return what the previous run did, if it was killed; ``None`` otherwise.

    Call it while ``status.json`` is still that of the previous run.

    Returns:
        ``start`` and ``pid`` of the run; ``counts`` (of its inputs, by outcome) and ``last_seen``
        as ``status.json`` last said; ``kept``, the number of inputs in the output by outcome.
    """
    record, status = _json(output / "run.json"), _json(output / "status.json")
    if record.get("state") != "running":
        return None
    is_own = record.get("pid") == status.get("pid")
    return {
        "start": record.get("start"),
        "pid": record.get("pid"),
        "counts": status.get("counts", {}) if is_own else {},
        "last_seen": status.get("updated") if is_own else None,
        "kept": dict(ledger.counts()) if ledger is not None else {},
    }


def _earlier(output: Path, killed: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return when and how the earlier runs into an output ended, the last one first."""
    last = _json(output / "run.json")
    try:
        kept = {key: last[key] for key in _KEPT}
        if killed is not None:
            kept["counts"] = killed["counts"]
        return [kept, *last.get("earlier", [])][:_EARLIER]
    except (KeyError, TypeError):
        return []


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a file; an empty one if there is none."""
    with suppress(OSError, ValueError), open_to_read(path) as file:
        content = json.load(file)
        return content if isinstance(content, dict) else {}
    return {}


def _kept_digests(output: Path) -> Mapping[str, str]:
    """Return the digests of the outputs, if the last run completed its manifest."""
    recorded = _json(output / "run.json").get("manifest")
    if not isinstance(recorded, Mapping):
        return {}
    with suppress(OSError, OutputError):
        manifest = read_manifest(output)
        if manifest.sha256 == recorded.get("sha256"):
            return {k: v for k, v in manifest.digests.items() if k != SKIPPED}  # always rewritten
    return {}


def _stamp(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, timezone.utc).isoformat(timespec="milliseconds")


def _git_commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    git = find_program("git")
    if git is None or not (root / ".git").exists():
        return None
    command = [git, "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _versions() -> dict[str, Any]:
    versions: dict[str, Any] = {"python": platform.python_version(), **library_versions()}
    versions["detectron2_from"] = detectron2_origin()
    torch = sys.modules.get("torch")  # only if the run loaded it
    versions["cuda"] = torch.version.cuda if torch else None
    versions["nvidia_driver"] = nvidia_driver()
    return versions
