"""Keeps the copy of a run directory in an object store, from one commit to the next.

The order of commits (``runners/rundir/commit.py``) holds there, too: the outputs of an asset are in
the store before the ledger says that it is done. Every now and then a checkpoint stores the ledger
and what has been added to the journal. First these are uploaded, under new names, and then one
small object is replaced, which names them. So a run that dies at any moment can be continued: on
the same machine from its directory, on another one from the last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.job import Job
from pipeline.system.descriptors import open_to_read, remove, status_of
from pipeline.system.files import replaced
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.owned.names import Outputs, all_names, recorded_outputs
from runners.rundir.remote.checkpoint import (
    CHECKPOINT,
    FOLDER,
    OWNER,
    Checkpoint,
    Piece,
    piece_of,
)
from runners.rundir.remote.owner import Owner
from runners.rundir.remote.store import ObjectStore
from runners.rundir.remote.uploads import Mark, Uploads, local_files, mark_of
from runners.rundir.translation import output_errors

_COPY = ".remote-copy.part"  # of a part of the journal, or of the ledger; a resumed run removes it
_LAST = ("run.json", "status.json")  # who waits for the end of a run reads them
_RECORDS = (PREDICTIONS, LEDGER)  # a checkpoint may name them
_SHARE = 20  # at most one part in so many of the time goes into checkpoints


class Mirror:
    """The copy of one run directory in an object store.

    Args:
        job: The job, its output locked.
        store: Where the copy is.
        owner: Knows the last checkpoint, and who else writes there.
        uploads: Uploads the files of sinks.
        every_s: Seconds between checkpoints, unless they take long.
    """

    def __init__(
        self, job: Job, store: ObjectStore, owner: Owner, uploads: Uploads, every_s: float
    ) -> None:
        self._output, self._store, self._owner, self._uploads = job.output, store, owner, uploads
        self._folders = {
            name.partition("/")[0]
            for sink in job.sinks.values()
            for name in sink.outputs
            if name.endswith("/")
        }
        self._every_s = every_s
        self._due_s = 0.0
        self._started_ns = time.time_ns()
        self._known: tuple[Piece, ...] | None = None  # what of the journal is in the store

    def open(self, ledger: Ledger) -> None:
        """Become the only writer of the copy, and write the first checkpoint.

        Raises:
            OutputError: Another machine has written a checkpoint meanwhile.
        """
        self._owner.claim()
        if self._owner.last is None and not self._owner.is_new:  # the store has lost its copy
            files = local_files(self._output)
            self._uploads.upload(name for name, _ in files if name.partition("/")[1])
        self.flush()
        self.checkpoint(ledger)

    def flush(self) -> None:
        """Wait until all files that were written, or removed, are so in the store."""
        self._uploads.flush()

    def committed(self, ledger: Ledger) -> None:
        """Write a checkpoint if it is time; the ledger has just been committed."""
        if time.monotonic() >= self._due_s:
            self.checkpoint(ledger)

    def checkpoint(self, ledger: Ledger) -> None:
        """Write a checkpoint; the ledger has no change that is not committed.

        Raises:
            OutputError: The store cannot be reached, or another machine writes there, too.
        """
        started_s = time.monotonic()
        self._owner.check()
        copy = self._output / _COPY
        try:
            with output_errors(self._output):
                ledger.copy(copy)
                self._save(copy, recorded_outputs(self._output, ledger), ledger.position.size)
        finally:
            remove(copy)
        took_s = time.monotonic() - started_s
        self._due_s = time.monotonic() + max(self._every_s, took_s * (_SHARE - 1))

    def save(self) -> None:
        """Write a checkpoint of a run that ends early; its ledger is closed.

        Raises:
            OutputError: As ``checkpoint``.
        """
        if self._owner.is_claimed and status_of(self._output / LEDGER) is not None:
            self.flush()
            self._known = None  # the journal may have been put in order
            with Ledger(self._output / LEDGER) as ledger:
                self.checkpoint(ledger)

    def forget(self) -> None:
        """Remove the checkpoint, because the results that it names are removed next."""
        self._owner.claim()
        self._store.remove(CHECKPOINT)
        self._owner.last, self._known = None, ()

    def fetch(self, changes: Mapping[str, Mark | None]) -> None:
        """Get files that a worker has uploaded, and remove those that it has removed.

        Args:
            changes: What ``Uploads.flush`` has returned there.

        Raises:
            OutputError: The store cannot be reached, or refuses.
        """
        self._uploads.folders.update(name.partition("/")[0] for name in changes)
        wanted = []
        for name, mark in changes.items():
            if mark is None:
                remove(self._output / name)
            elif mark_of(self._output, name) != mark:  # the worker has another file system
                wanted.append(name)
        download(self._store, self._output, wanted)

    def publish(self) -> None:
        """Make the copy equal to the run directory, whose ledger is closed.

        Raises:
            OutputError: The store cannot be reached, or another machine writes there, too.
        """
        self._owner.check()
        files = {name: (s.st_size, s.st_mtime_ns) for name, s in local_files(self._output)}
        last = [name for name in _LAST if name in files]
        with output_errors(self._output):
            for name in _LAST + _RECORDS:
                files.pop(name, None)
            self._uploads.upload(self._outdated(files))
            if status_of(self._output / LEDGER) is None:
                return
            self._publish_records(recorded_outputs(self._output, None), files, last)
        names = {*self._store.sizes(FOLDER)}
        self._owner.check()
        for name in names - {CHECKPOINT, OWNER}:
            self._store.remove(name)

    def _publish_records(
        self, owned: Outputs, files: Mapping[str, Mark], last: Iterable[str]
    ) -> None:
        """Upload journal and ledger under their own names, and have the checkpoint name these."""
        journal, ledger = (piece_of(self._output / name, name) for name in _RECORDS)
        before = self._owner.last
        named = set() if before is None else {before.ledger, *before.journal}
        changed = [piece for piece in (journal, ledger) if piece not in named]
        if {piece.name for piece in changed} & {piece.name for piece in named}:
            # what the checkpoint names is never changed: it gets names that are not
            self._known = () if journal in changed else (journal,)
            self._save(self._output / LEDGER, owned, journal.size)
        for piece in changed:
            self._store.upload(self._output / piece.name, piece.name)
        self._uploads.upload(last)
        folders = tuple(name for name in all_names(owned) if name.endswith("/"))
        single = {name: mark for name, mark in files.items() if not name.startswith(folders)}
        self._owner.marks = single
        kept = tuple(sorted([*single, *last]))
        self._owner.replace(Checkpoint(ledger, (journal,), tuple(all_names(owned)), kept))

    def _save(self, ledger: Path, owned: Outputs, size: int) -> None:
        """Upload a ledger, and the journal up to a size; then replace the checkpoint."""
        journal = self._kept(size)
        start = sum(each.size for each in journal)
        before = self._owner.last
        files = before.files if before is not None else ()
        made = Checkpoint(piece_of(ledger, ""), (), tuple(all_names(owned)), files)
        made = replace(made, ledger=replace(made.ledger, name=f"{FOLDER}/{made.id}.sqlite"))
        if start < size:
            name = f"{FOLDER}/{made.id}.jsonl"
            piece = piece_of(self._output / PREDICTIONS, name, start, size - start)
            journal = (*journal, piece)
            self._upload_range(piece, start)
        self._store.upload(ledger, made.ledger.name)
        self._owner.replace(replace(made, journal=journal))
        self._known = journal
        # not before the first checkpoint: they would pass for those of another run
        self._uploads.upload(name for name in _LAST if mark_of(self._output, name))
        if before is not None:  # those of the time before this run go at its end
            for name in before.names() - {each.name for each in journal} - {*_RECORDS}:
                self._store.remove(name)

    def _kept(self, size: int) -> tuple[Piece, ...]:
        """Return the pieces of the last checkpoint that the journal still begins with."""
        if self._known is not None:
            return self._known
        pieces = self._owner.last.journal if self._owner.last is not None else ()
        kept = []
        path = self._output / PREDICTIONS
        for piece, end in zip(pieces, accumulate(each.size for each in pieces), strict=True):
            start = end - piece.size
            if end > size or piece_of(path, piece.name, start, piece.size) != piece:
                break
            kept.append(piece)
        return tuple(kept)

    def _upload_range(self, piece: Piece, start: int) -> None:
        path, copy = self._output / PREDICTIONS, self._output / f"{_COPY[:-5]}-range.part"
        try:
            with open_to_read(path) as journal, replaced(copy, durable=False) as file:
                journal.seek(start)
                left = piece.size
                while block := journal.read(min(left, 1 << 20)):
                    left -= len(block)
                    file.write(block)
            self._store.upload(copy, piece.name)
        finally:
            remove(copy)

    def _outdated(self, files: Mapping[str, Mark]) -> list[str]:
        """Return the files whose objects are missing or may differ, and those that are gone."""
        sizes, marks = self._store.sizes(), self._owner.marks
        found = [name for name in marks if name not in files]
        for name, mark in files.items():
            if sizes.get(name) != mark[0] or self._is_changed(name, mark, marks.get(name)):
                found.append(name)
        return found

    def _is_changed(self, name: str, mark: Mark, before: Mark | None) -> bool:
        """Return whether a file was written without notice since its upload."""
        folder = name.partition("/")[0]
        if folder in self._folders and folder in self._uploads.folders:
            return False  # a sink that gives notice
        if before is not None:
            return mark != before
        with suppress(OSError):
            status = status_of(self._output / name)
            return status is not None and status.st_ctime_ns >= self._started_ns
        return True


def download(store: ObjectStore, output: Path, names: Iterable[str]) -> None:
    """Copy objects to the files of a run directory, several at a time.

    Raises:
        OutputError: The store cannot be reached, or an object is missing.
    """
    from concurrent.futures import ThreadPoolExecutor

    def one(name: str) -> None:
        with replaced(output / name, durable=False) as file:
            store.download(name, Path(file.name))

    with output_errors(output), ThreadPoolExecutor(16, "download") as pool:
        for _ in pool.map(one, names):
            pass
