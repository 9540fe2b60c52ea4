"""Compares the directory of a run with its manifest, and with that of its repeat."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.encoding import without_image_id
from pipeline.errors import OutputError
from pipeline.recorded import RecordedInput, RecordedRun
from pipeline.recorded.manifest import compute_digests, list_files, listed_outputs, read_manifest
from pipeline.redaction import redacted
from pipeline.system.files import asset_id_of, output_name
from runners.rundir.lists import FAILURES, INPUTS, SKIPPED
from runners.rundir.owned.aggregates import built_files
from runners.rundir.settings import differences
from runners.verify.differences import Distance, measure_results

_PER_RUN = (FAILURES, INPUTS, SKIPPED, "report.html")  # attempts, messages and times may differ
_SHOWN = 5


@dataclass
class Findings:
    """What was compared, and what differs.

    Attributes:
        differs: Messages that make the verdict ``different``.
        causes: What may explain other results: settings, libraries, the device.
        notes: Other messages.
        inputs: Number of inputs whose results are the same.
        files: Number of files with the recorded digest.
    """

    differs: list[str] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    inputs: int = 0
    files: int = 0

    def add(self, found: Collection[str], what: str) -> None:
        """Add one message that names the first of what was found, if anything was."""
        if found:
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            self.differs.append(f"{what}: {', '.join(list(found)[:_SHOWN])}{more}")

    def explain(self) -> None:
        """Add the causes if the results differ; another model is a difference in any case."""
        models = [cause for cause in self.causes if cause.startswith("model.")]
        found = self.causes if self.differs else models
        self.differs += found
        self.causes = [cause for cause in self.causes if cause not in found]


def check_manifest(run: RecordedRun, findings: Findings) -> None:
    """Compare the files of a run with ``manifest.sha256``, and that with ``run.json``."""
    recorded = run.record.get("manifest")
    if not isinstance(recorded, Mapping):
        findings.notes.append(
            "run.json records no manifest.sha256, so changed files are found only by repeating"
        )
        return
    try:
        manifest = read_manifest(run.path)
    except OutputError as exc:
        findings.differs.append(str(exc))
        return
    if manifest.sha256 != recorded.get("sha256"):
        findings.differs.append("manifest.sha256 is missing or is not the one that run.json names")
    found = compute_digests(run.path, manifest.digests)
    same = [name for name, digest in manifest.digests.items() if found[name] == digest]
    missing = [name for name in found if not os.path.lexists(run.path / name)]
    changed = [name for name in found if name not in {*same, *missing}]
    listed = listed_outputs(run.record.get("outputs", {}))
    added = [name for name, _ in list_files(run.path, listed) if name not in found]
    findings.files = len(same)
    findings.add(changed, "changed since the run")
    findings.add(missing, "missing since the run")
    findings.add(added, "added since the run")


def compare_settings(run: RecordedRun, repeat: RecordedRun, findings: Findings) -> None:
    """Find out how the settings, the libraries and the device differ from those of the run."""
    texts = differences(_settings(run), _settings(repeat))
    before, now = (dict(each.record.get("versions", {})) for each in (run, repeat))
    for key in ("python", "cuda", "nvidia_driver", "detectron2_from"):
        if key in before and before[key] != now.get(key):
            texts.append(f"versions.{key} was {before[key]}, is {now.get(key)}")
    names = [each.record.get("device", {}).get("name") for each in (run, repeat)]
    if None not in names and names[0] != names[1]:
        texts.append(f"the device was {names[0]}, is {names[1]}")
    commits = [each.record.get("d2run", {}).get("git_commit") for each in (run, repeat)]
    if findings.differs and None not in commits and commits[0] != commits[1]:
        texts.append(f"d2run was at commit {commits[0][:10]}, is at {commits[1][:10]}")
    findings.causes = texts


def _settings(run: RecordedRun) -> dict[str, Any]:
    """Return the settings that decide the results: not which files the sinks write."""
    settings = dict(redacted(run.record.get("settings", {})))
    settings.pop("sinks", None)
    return settings


def compare_results(
    run: RecordedRun, repeat: RecordedRun, ids: Collection[str], findings: Findings
) -> None:
    """Compare the inputs, the predictions and the files of a run with those of its repeat.

    Args:
        run: The run.
        repeat: The repeat of some of its inputs.
        ids: The ids of these inputs.
        findings: Receives what differs.

    Raises:
        OutputError: The files of the repeat do not fit together.
    """
    now = {each.id: each for each in repeat.inputs()}
    missing, changed, other = list[str](), list[str](), dict[str, str]()
    differing: dict[str, Distance] = {}
    for each in run.inputs():
        if each.id not in ids:
            continue
        again = now.get(each.id)
        if again is None:
            missing.append(each.id)
        elif again.sha256 != each.sha256:
            changed.append(each.id)
        elif (again.failure is None) != (each.failure is None):
            other[each.id] = _outcome(each, again)
        elif all(a == b for a, b in zip_longest(_lines(run, each), _lines(repeat, again))):
            findings.inputs += 1
        else:
            differing[each.id] = measure_results(run.results(each), repeat.results(again))
    findings.add(missing, "inputs that are missing")
    findings.add(changed, "inputs whose content changed (another SHA-256)")
    findings.add(list(other.values()), "inputs with another outcome")
    if differing:
        findings.add(list(differing), f"other results for {len(differing)} of {len(ids)} inputs")
        findings.differs.append(describe_distances(differing))
    is_whole = not (missing or changed or other) and len(ids) == len(list(run.lines(INPUTS)))
    _compare_files(run, repeat, {*changed, *other, *differing}, is_whole, findings)


def describe_distances(differing: Mapping[str, Distance]) -> str:
    """Return one sentence on the largest differences, with the inputs that have them."""
    worst_px = max(differing, key=lambda each: differing[each].px)
    worst_score = max(differing, key=lambda each: differing[each].score)
    total = Distance()
    for distance in differing.values():
        total = total.largest(distance)
    text = (
        f"largest difference: {total.px:.6g} px ({worst_px}), "
        f"{total.score:.6g} in score ({worst_score})"
    )
    if total.unmatched:
        text += f"; {total.unmatched} instances are in only one of both"
    if total.masks:
        text += f"; {total.masks} masks differ"
    return text


def _compare_files(
    run: RecordedRun,
    repeat: RecordedRun,
    known: Collection[str],
    is_whole: bool,
    findings: Findings,
) -> None:
    """Compare the files that the repeat wrote; aggregates only if it has all inputs.

    Args:
        run: The run.
        repeat: The repeat.
        known: Ids of inputs that differ anyway.
        is_whole: Whether the repeat has all inputs of the run.
        findings: Receives what differs.
    """
    digests = dict(read_manifest(repeat.path).digests)
    skipped = {PREDICTIONS, *_PER_RUN, *(() if is_whole else built_files(repeat.path))}
    bases = [output_name(each, "") for each in known]
    names = [n for n in digests if n not in skipped and not any(base in n for base in bases)]
    found = compute_digests(run.path, names)
    findings.add(
        [name for name in names if found[name] != digests[name]],
        "files that the repeat wrote with other content",
    )


def _outcome(before: RecordedInput, now: RecordedInput) -> str:
    if now.failure is None:
        return f"{before.id}: failed, is done now"
    return f"{before.id}: was done, fails now ({now.failure.get('message')})"


def _lines(run: RecordedRun, each: RecordedInput) -> Iterator[bytes]:
    return map(without_image_id, run.raw_lines(each))


def recorded_ids(run: RecordedRun) -> Iterator[str]:
    """Yield the ids of the inputs of a run."""
    return (asset_id_of(line) for line in run.lines(INPUTS))
