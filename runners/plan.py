"""What would be done, what not, and why; nothing is run, no weights are loaded."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.config import Job
from pipeline.errors import ConfigError
from pipeline.files import output_name
from pipeline.types import Report
from runners.console import print_table, say

_SHOWN = 20


@dataclass
class Plan:
    """Lists the input as a batch would see it."""

    def run(self, job: Job) -> Report:
        """Print the plan on standard output.

        Raises:
            ConfigError: There is no input.
        """
        if job.source is None:
            raise ConfigError("no input to plan for: add input=PATH")
        kinds: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        unreadable: list[tuple[str, str]] = []
        ids: list[str] = []
        for asset in job.source:
            ids.append(asset.id)
            try:
                size = asset.path.stat().st_size
            except OSError as exc:
                unreadable.append((asset.id, f"would fail: {exc.strerror}"))
                continue
            kind = asset.path.suffix.lower() or "(no extension)"
            kinds[kind] += 1
            sizes[kind] += size
        skipped = [(entry.path, entry.reason) for entry in getattr(job.source, "skipped", list)()]
        rows: list[tuple[object, ...]] = [
            (kind, n, round(sizes[kind] / 1e6, 2)) for kind, n in kinds.most_common()
        ]
        total: tuple[object, ...] = ("all", kinds.total(), round(sizes.total() / 1e6, 2))
        print_table("To do", ("kind", "inputs", "MB"), [*rows, total])
        if skipped or unreadable:
            print_table("Not done", ("reason", "count", "for example"), _why(skipped + unreadable))
        clashes = list(name_clashes(ids))
        if clashes:
            shown = [(clash,) for clash in clashes[:_SHOWN]]
            print_table("Clashing names", (f"{len(clashes)} clashes of outputs",), shown)
        print_table("With", ("what", "which"), list(_settings(job)))
        for warning in getattr(job.model, "warnings", []):
            say(f"warning: {warning}")
        return Report(exit_status=0, counts={"planned": len(ids), "skipped": len(skipped)})


def name_clashes(ids: Iterable[str]) -> Iterator[str]:
    """Yield groups of inputs whose outputs would share a name, or a name with a folder.

    Names are compared without case: some file systems (exFAT, SMB, APFS) know none.
    """
    files: dict[str, list[str]] = defaultdict(list)
    folders: dict[str, str] = {}
    for asset_id in ids:
        name = output_name(asset_id, "").casefold()
        files[name].append(asset_id)
        for folder in PurePosixPath(name).parents:
            folders.setdefault(str(folder), asset_id)
    for name, sharing in files.items():
        if len(sharing) > 1:
            yield ", ".join(sharing)
        for suffix in (".jpg", ".png"):
            if name + suffix in folders:
                yield f"{sharing[0]}, {folders[name + suffix]}"


def _why(entries: list[tuple[str, str]]) -> list[tuple[object, ...]]:
    example = {reason: path for path, reason in reversed(entries)}
    reasons = Counter(reason for _, reason in entries)
    return [(reason, n, example[reason]) for reason, n in reasons.most_common()]


def _settings(job: Job) -> Iterator[tuple[object, ...]]:
    model = job.model.identity()
    yield "model", model.get("tag") or model.get("name")
    yield "device", job.config["device"]
    yield "stages", " -> ".join(job.stages) or "none"
    yield "sinks", ", ".join([*job.sinks, *job.aggregates])
    yield "output", job.output
