"""What would be done, what not, and why; nothing is run, no weights are loaded."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import PurePosixPath
from unicodedata import normalize

from pipeline.errors import ConfigError, PipelineError
from pipeline.job import Job, Report
from pipeline.sources.decode.reading import why
from pipeline.system.files import output_name
from pipeline.system.terminal import say
from runners.reporting.console import print_table
from runners.rundir.inputs import share_of
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.lock import locked
from runners.rundir.opening import check_settings
from runners.todo import CHANGED, DONE, FAILED, GONE, NEW, POISON, TO_DO, Todo

_SHOWN = 20
_WHY = {
    NEW: "new",
    CHANGED: "changed since it was done",
    FAILED: "failed before",
    DONE: "done already",
    POISON: "killed its worker each time; runner.retry_failed=true tries it again",
    GONE: "done, and cannot be looked at any more; its result is kept",
}


@dataclass
class Plan:
    """Lists the input as a batch into the same output would see it."""

    def run(self, job: Job) -> Report:
        """Print the plan on standard output.

        Raises:
            ConfigError: There is no input.
        """
        if job.source is None:
            raise ConfigError("no input to plan for: add input=PATH")
        with ExitStack() as stack:
            ledger, problem = self._ledger(job, stack)
            assets = iter(job.source)
            share = share_of(job, ledger, "extend", can_extend=True)
            todo = Todo(
                share.distinct(assets, ledger),
                ledger,
                first_place=share.places.start,
                places=share.places,
            )
            kinds: Counter[str] = Counter()
            sizes: Counter[str] = Counter()
            not_done: list[tuple[str, str]] = []
            states: list[tuple[str, str]] = []
            ids: list[str] = []
            for asset, _, state in todo.states():
                ids.append(asset.id)
                if state not in TO_DO:
                    not_done.append((asset.id, _WHY[state]))
                    continue
                try:
                    size = asset.path.stat().st_size
                except (OSError, ValueError) as exc:
                    not_done.append((asset.id, f"would fail: {why(exc)}"))
                    continue
                if not size:
                    not_done.append((asset.id, "would fail: empty file"))
                    continue
                states.append((asset.id, _WHY[state]))
                kind = asset.path.suffix.lower() or "(no extension)"
                kinds[kind] += 1
                sizes[kind] += size
            removed = _removed(ledger, ids, share.places)
        skipped = [(entry.path, entry.reason) for entry in getattr(job.source, "skipped", list)()]
        rows: list[tuple[object, ...]] = [
            (kind, n, round(sizes[kind] / 1e6, 2)) for kind, n in kinds.most_common()
        ]
        total: tuple[object, ...] = ("all", kinds.total(), round(sizes.total() / 1e6, 2))
        print_table("To do", ("kind", "inputs", "MB"), [*rows, total])
        if ledger is not None and states:
            print_table("To do, since", ("reason", "count", "for example"), _why(states))
        if others := skipped + not_done + removed:
            print_table("Not done", ("reason", "count", "for example"), _why(others))
        clashes = list(name_clashes(ids))
        if clashes:
            shown = [(clash,) for clash in clashes[:_SHOWN]]
            print_table("Clashing names", (f"{len(clashes)} clashes of outputs",), shown)
        print_table("With", ("what", "which"), list(_settings(job)))
        for warning in getattr(job.model, "warnings", []):
            say(f"warning: {warning}")
        if problem:
            say(f"warning: {problem}")
        return Report(exit_status=0, counts={"planned": kinds.total(), "skipped": len(skipped)})

    def _ledger(self, job: Job, stack: ExitStack) -> tuple[Ledger | None, str]:
        """Return what is done already, or why it is not known; makes and changes nothing."""
        if not os.path.lexists(job.output / LEDGER):
            return None, ""
        try:
            stack.enter_context(locked(job.output))
            ledger = stack.enter_context(Ledger(job.output / LEDGER))
            check_settings(job, ledger, loaded=False)
            share_of(job, ledger, "error", can_extend=True)
        except PipelineError as exc:
            return None, f"what is done already is not counted: {exc}"
        return ledger, ""


def _removed(ledger: Ledger | None, ids: Iterable[str], places: range) -> list[tuple[str, str]]:
    known = set(ids)
    entries = ledger.entries() if ledger is not None else ()
    return [
        (entry.id, "not there any more; its result is kept")
        for entry in entries
        if entry.id not in known and entry.outcome == "done" and entry.place in places
    ]


def name_clashes(ids: Iterable[str]) -> Iterator[str]:
    """Yield groups of inputs whose outputs would share a name, or a name with a folder.

    Names are compared without case, and accents in one form: some file systems (exFAT, SMB, APFS)
    do the same.
    """
    files: dict[str, list[str]] = defaultdict(list)
    folders: dict[str, str] = {}
    for asset_id in ids:
        name = normalize("NFD", output_name(asset_id, "").casefold())
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
