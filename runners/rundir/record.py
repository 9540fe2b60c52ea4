"""The record of a run: enough to explain it and to repeat it."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from pipeline.job import Job, Report
from pipeline.redaction import redacted, redacted_text
from pipeline.system.children import find_program
from pipeline.system.descriptors import open_to_read
from pipeline.system.files import write_whole
from pipeline.system.versions import VERSION, library_versions
from runners.reporting.console import busy
from runners.rundir.commit import translated

_KEPT = ("start", "end", "exit_status", "command", "fingerprint", "device", "counts")
_EARLIER = 20


@dataclass
class Record:
    """Writes ``run.json`` and ``.hydra/`` of a job.

    Started once the lock is held and the model is loaded, so that a run that could not start
    leaves the record of an earlier one as it was.

    Attributes:
        job: The job.
        device: The device in use and its name.
        warnings: Sentences for people that belong to the results.
        inputs: What the results in the output are of, in order; ``runner=repair`` reads it.
    """

    job: Job
    device: Mapping[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._content: dict[str, Any] = {}

    def start(self) -> None:
        """Write the start of the record.

        Raises:
            OutputError: It cannot be written.
        """
        output = self.job.output
        with translated(output):
            for name, content in self.job.hydra_files.items():
                text = yaml.safe_dump(redacted(content), sort_keys=False, allow_unicode=True)
                write_whole(output / ".hydra" / name, text.encode(errors="surrogateescape"))
            self._content = self._start()
            self._save()

    def finish(self, report: Report) -> None:
        """Write the end of the record, if its start was written."""
        if not self._content:
            return
        seconds = {step: round(value, 6) for step, value in report.timings.items()}
        done = report.counts.get("done", 0)
        self._content |= {
            "end": _stamp(time.time()),
            "exit_status": report.exit_status,
            "message": redacted_text(report.message),
            "counts": dict(report.counts),
            "totals": dict(report.totals),
            "skipped": dict(report.skipped),
            "detections": dict(report.detections),
            "warnings": redacted(self.warnings),
            "busy": round(busy(report), 4),
            "seconds": seconds | {"wall": round(report.wall_s, 6)},
            "inputs_per_s": {
                step: round(done / value, 3)
                for step, value in (seconds | {"wall": report.wall_s}).items()
                if value > 0 and step != "load"
            },
        }
        self._save()

    def ran_on(self) -> str:
        """Say in one line on which device and with which libraries it ran."""
        device, versions = self._content["device"], self._content["versions"]
        where = " ".join(str(device[key]) for key in ("device", "name") if key in device)
        return f"{where}, torch {versions['torch']}, Detectron2 {versions['detectron2_from']}"

    def _save(self) -> None:
        write_whole(self.job.output / "run.json", json.dumps(self._content, indent=1) + "\n")

    def _start(self) -> dict[str, Any]:
        job, config = self.job, redacted(dict(self.job.config))
        return {
            "d2run": {"version": VERSION, "git_commit": _git_commit()},
            "start": _stamp(job.started),
            "end": None,
            "exit_status": None,
            "counts": {},  # of this run
            "totals": {},  # of the output
            "skipped": {},
            "command": shlex.join(redacted(sys.orig_argv)),
            "fingerprint": job.fingerprint(),
            "settings": redacted(job.settings()),
            "inputs": self.inputs,
            "config": config,
            "model": redacted(job.model.identity())
            | {"class_names": list(job.model.categories.thing_names)}
            | {"stuff_names": list(job.model.categories.stuff_names)},
            "device": self.device,
            "seed": job.config["seed"],
            "versions": _versions(),
            "warnings": redacted(self.warnings),
            "earlier": _earlier(job.output / "run.json"),
        }


def _earlier(path: Path) -> list[dict[str, Any]]:
    """Return when and how the runs before this one in the same output ended, the last first."""
    try:
        with open_to_read(path) as file:
            last = json.load(file)
        return [{key: last[key] for key in _KEPT}, *last.get("earlier", [])][:_EARLIER]
    except (OSError, ValueError, KeyError, TypeError):
        return []


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
    torch = sys.modules.get("torch")  # only if the run has loaded it
    versions["cuda"] = torch.version.cuda if torch else None
    return versions


def detectron2_origin() -> str | None:
    """Say which Detectron2 is installed: the in-tree distribution, or another build."""
    try:
        found = metadata.distribution("detectron2")
    except metadata.PackageNotFoundError:
        return "without metadata" if find_spec("detectron2") else None
    return f"{found.version} ({found.metadata['Summary'] or 'another build'})"
