"""The current fails: whatever of the unsynced is lost, what the ledger calls done is whole.

The file operations of a run are recorded; from them come the states in which a disk may be found
afterwards. What was synced is there. What was not may be, whole, in part or not at all, and so may
names in folders that were not synced. A commit of the ledger is one step: SQLite sees to that.
"""

from __future__ import annotations

import json
import pickle
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from dying import ended, forked
from file_layer import Layer
from forking import warm
from scenarios import make_inputs, outputs, packed, run_scenario, tell

Operation = tuple[Any, ...]
_AGGREGATES = ("coco.json", "coco_results.json")


def recorded(arguments: list[str], out: Path, log: Path) -> list[Operation]:
    """Run a command; return its operations in the output, commits of the ledger among them."""

    def prepare() -> None:
        from runners.rundir import commit as session
        from runners.rundir.ledger.ledger import Ledger

        session.GROUP = 4
        file = log.open("wb")

        def note(operation: Operation) -> None:
            pickle.dump(operation, file)
            file.flush()

        layer = Layer(out, note=note)

        def committing(original: Any) -> Any:
            def commit(self: Ledger, *args: Any, **options: Any) -> None:
                original(self, *args, **options)
                with layer.lock:
                    note(("commit", self.path.read_bytes()))

            return commit

        Ledger.commit = committing(Ledger.commit)  # type: ignore[method-assign]
        Ledger._open = committing(Ledger._open)  # type: ignore[method-assign]
        layer.install()

    assert ended(forked([*arguments, f"output={out}"], prepare)) == 3
    operations = []
    with log.open("rb") as file:
        while True:
            try:
                operations.append(pickle.load(file))
            except EOFError:
                return operations


@dataclass
class Disk:
    """What is on the disk for certain, and what may be.

    Attributes:
        synced: Content of each file when it was last synced.
        unsynced: Writes and cuts of each file since then.
        names: The files' names that are certain, folders (``None``) too.
        renames: Changes of names in each folder since it was last synced.
        ledger: As it was last committed.
    """

    synced: dict[Any, bytes] = field(default_factory=dict)
    unsynced: dict[Any, list[Operation]] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=dict)
    renames: dict[str, list[list[tuple[str, Any]]]] = field(default_factory=dict)
    ledger: bytes | None = None
    _now: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, out: Path) -> Disk:
        """A folder that was there long ago."""
        disk = cls()
        for path in out.rglob("*"):
            name = str(path.relative_to(out))
            if name.startswith("ledger"):
                disk.ledger = path.read_bytes()
                continue
            disk.names[name] = None if path.is_dir() else name
            if path.is_file():
                disk.synced[name] = path.read_bytes()
        disk._now = dict(disk.names)
        return disk

    def apply(self, operation: Operation) -> None:
        kind, *rest = operation
        if kind == "commit":
            (self.ledger,) = rest
        elif kind in ("write", "truncate"):
            self.unsynced.setdefault(rest[0], []).append(operation)
        elif kind == "fsync":
            changes = self.unsynced.pop(rest[0], [])
            self.synced[rest[0]] = content(self.synced.get(rest[0], b""), changes)
        elif kind == "syncdir":
            for change in self.renames.pop(rest[0], []):
                rename(self.names, change)
        else:
            if kind == "create":
                change = [(rest[0], rest[1])]
            elif kind == "mkdir":
                change = [(rest[0], None)]
            elif kind == "unlink":
                change = [(rest[0], GONE)]
            else:
                change = [(rest[1], self._now.get(rest[0])), (rest[0], GONE)]
            rename(self._now, change)
            folder = str(Path(change[0][0]).parent)
            self.renames.setdefault("" if folder == "." else folder, []).append(change)

    def after_a_crash(self, rng: random.Random) -> dict[str, bytes | None]:
        """One state that it may be found in: content by name, ``None`` for a folder."""
        names = dict(self.names)
        for changes in self.renames.values():
            for change in some(changes, rng):
                rename(names, change)
        # files in a folder whose own name is lost cannot be found
        lost = {name for name in names if any(str(p) not in names for p in parents(name))}
        files: dict[str, bytes | None] = {}
        for name in names.keys() - lost:
            file = names[name]
            if file is not None:
                kept = [torn(change, rng) for change in some(self.unsynced.get(file, []), rng)]
                files[name] = content(self.synced.get(file, b""), kept)
            else:
                files[name] = None
        return files


GONE = object()


def parents(name: str) -> list[Path]:
    return [p for p in Path(name).parents if str(p) != "."]


def rename(names: dict[str, Any], change: list[tuple[str, Any]]) -> None:
    for name, file in change:
        if file is GONE:
            names.pop(name, None)
        else:
            names[name] = file


def some(changes: list[Any], rng: random.Random) -> list[Any]:
    """Those that have reached the disk: all before a moment, or any."""
    if rng.random() < 0.5:
        return changes[: rng.randint(0, len(changes))]
    share = rng.random()
    return [change for change in changes if rng.random() < share]


def torn(change: Operation, rng: random.Random) -> Operation:
    if change[0] == "write" and rng.random() < 0.3:
        return (*change[:3], change[3][: rng.randint(0, len(change[3]))])
    return change


def content(data: bytes, changes: list[Operation]) -> bytes:
    for change in changes:
        if change[0] == "truncate":
            data = data[: change[2]].ljust(change[2], b"\0")
        else:
            _, _, at, new = change
            data = data.ljust(at, b"\0")[:at] + new + data[at + len(new) :]
    return data


@dataclass
class Whole:
    """What an uninterrupted run leaves, and what the ledger's states promise of it."""

    out: Path
    scratch: Path
    _known: dict[bytes, tuple[list[Any], bool, bool]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files = outputs(self.out)
        lines = self.files["predictions.jsonl"].splitlines(keepends=True)
        self.lines = {json.loads(line)["asset"]: line for line in lines}

    def promised(self, ledger: bytes) -> tuple[list[Any], bool, bool]:
        """The entries that are done, whether they are of the ordered file, whether it is over."""
        from runners.rundir.ledger.ledger import Ledger

        if ledger not in self._known:
            self.scratch.write_bytes(ledger)
            with Ledger(self.scratch) as opened:
                done = [entry for entry in opened.entries() if entry.outcome == "done"]
                facts = bool(opened.fact("ordered")), bool(opened.fact("finished"))
                assert opened.position.size >= sum(entry.length for entry in done)
            self._known[ledger] = done, *facts
        return self._known[ledger]

    def check(self, files: dict[str, bytes | None], ledger: bytes | None) -> int:
        """Assert that all that is called done is there; return how many that is."""
        if ledger is None:
            return 0
        done, ordered, finished = self.promised(ledger)
        name = ".predictions.jsonl.ordered"
        text = files.get(name if ordered and name in files else "predictions.jsonl")
        for entry in done:
            assert text is not None, "predictions.jsonl is lost"
            line = text[entry.start : entry.start + entry.length]
            assert without_number(line) == without_number(self.lines[entry.id]), entry.id
            picture = f"overlay/{entry.id}.jpg"
            assert files.get(picture) == self.files.get(picture), picture
        if finished and len(done) == len(self.lines):  # not of the run before
            for name in (*_AGGREGATES, "inputs.jsonl", "failures.jsonl"):
                assert files.get(name) == self.files[name], name
        return len(done)


def without_number(line: bytes) -> bytes:
    """A line without its image id, which is assigned again at the end."""
    head, _, tail = line.partition(b', "image_id": ')
    return head + tail.partition(b",")[2]


def states(
    start: Disk, operations: list[Operation], n: int, rng: random.Random
) -> Iterator[tuple[int, dict[str, bytes | None], bytes | None]]:
    """``n`` states at moments all over the run, most of them around commits and renames."""
    telling = [
        i + 1 + after
        for i, operation in enumerate(operations)
        for after in (-1, 0)
        if operation[0] in ("commit", "rename", "syncdir", "fsync", "mkdir")
    ]
    moments = sorted(
        rng.choice(telling) if rng.random() < 0.7 else rng.randint(0, len(operations))
        for _ in range(n)
    )
    applied = 0
    for moment in moments:
        while applied < moment:
            start.apply(operations[applied])
            applied += 1
        yield moment, start.after_a_crash(rng), start.ledger


def scenario_loss(folder: Path, n: int, n_states: int, n_resumed: int, kind: str = "") -> None:
    """A new run, and one that resumes an earlier run and has to restore the order of its files."""
    given = make_inputs(folder / "in", n)
    (folder / "fresh").mkdir()
    (folder / "plain").mkdir()
    away, late = folder / "away", [folder / f"in/0/{i}.png" for i in range(1, n, 2)]
    away.mkdir()
    for path in late:
        path.rename(away / path.name)
    arguments = packed(given, folder / "in", kind)
    assert ended(forked([*arguments, f"output={folder}/later"])) == 3
    for path in late:
        (away / path.name).rename(path)
    arguments = packed(given, folder / "in", kind)
    rng, checked, promised, resumed = random.Random(7), 0, 0, 0
    runs = {"fresh": arguments, "later": arguments, "plain": [*arguments, "sink=[coco]"]}
    for name, arguments in runs.items():
        out = folder / name
        start = Disk.of(out)
        operations = recorded(arguments, out, folder / "log")
        kinds = {operation[0] for operation in operations}
        assert {"create", "write", "fsync", "rename", "syncdir", "commit"} <= kinds, kinds
        whole = Whole(out, folder / "ledger")
        resume = set(rng.sample(range(n_states // 3), n_resumed // 3))
        for i, (moment, files, ledger) in enumerate(states(start, operations, n_states // 3, rng)):
            try:
                promised += whole.check(files, ledger)
                checked += 1
                if i in resume:
                    resumed += 1
                    again(folder / "again", arguments, files, ledger)
                    assert outputs(folder / "again") == whole.files
            except AssertionError as exc:
                last = "\n".join(str(each)[:100] for each in operations[:moment][-8:])
                raise AssertionError(f"{name}, {moment} operations: {exc}\n{last}") from exc
    tell(f"{checked} states, {promised} results, {resumed} resumed")


def again(
    out: Path, arguments: list[str], files: dict[str, bytes | None], ledger: bytes | None
) -> None:
    """Find the disk in that state, and run again."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    for name in sorted(files):
        data = files[name]
        if data is None:
            (out / name).mkdir()
        else:
            (out / name).write_bytes(data)
    if ledger is not None or files:  # perhaps started
        (out / "ledger.sqlite").write_bytes(ledger or b"")
    assert ended(forked([*arguments, f"output={out}"])) == 3


@pytest.mark.timeout(300)
def test_what_is_done_outlives_a_power_cut(tmp_path: Path) -> None:
    told = run_scenario(__file__, tmp_path, "loss", 40, 75, 3)
    assert "75 states" in told
    assert "3 resumed" in told


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["", "zip"])
def test_what_is_done_outlives_many_power_cuts(tmp_path: Path, kind: str) -> None:
    told = run_scenario(__file__, tmp_path, "loss", 40, 4500, 150, kind)
    assert "4500 states" in told
    assert "150 resumed" in told


if __name__ == "__main__":
    warm()
    scenario_loss(Path(sys.argv[2]), *json.loads(sys.argv[3]))
