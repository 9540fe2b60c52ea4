"""What becomes of the files whose outcomes are committed, however often a run is killed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from pipeline.errors import OutputError
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.ledger.source_files import SourceFile, SourceFiles
from runners.watch.account import Account
from runners.watch.files.after import After
from runners.watch.files.claims import FOLDER, Processed
from runners.watch.files.names import Names
from runners.watch.inbox.inbox import Inbox
from runners.watch.troubles import Troubles

_log = logging.getLogger("d2run")


@dataclass
class Moving:
    """Moves and deletes files, in an order that a kill cannot upset.

    A file gets a private name and is compared with what was decoded, the ledger is told that it is
    gone, and only then is it moved or deleted. What a killed run has left under private names is
    brought to its end if the ledger has its outcome, and put back if not.

    Attributes:
        after: Does it, for one file.
        ledger: Has the outcomes.
        files: Learns which are gone.
        names: Which input a file is.
        account: Which inputs are failing.
        inbox: Looks again at what has changed.
        troubles: Learns what cannot be moved.
    """

    after: After
    ledger: Ledger
    files: SourceFiles
    names: Names
    account: Account
    inbox: Inbox
    troubles: Troubles
    _unmoved: dict[str, Processed] = field(default_factory=dict, init=False)
    _complaints: set[str] = field(default_factory=set, init=False)

    def settle(self, files: Sequence[Processed]) -> None:
        """Move or delete files as the user wishes; what cannot be moved stays for now.

        Raises:
            OutputError: The ledger cannot be written, or what was moved not made durable.
        """
        if self.after.action != "keep":
            self._finish([file for file in files if self._is_taken(file)])

    def settle_late(self) -> None:
        """Move those that could not be moved before, until one still cannot.

        Raises:
            OutputError: As for ``settle``.
        """
        while self._unmoved:
            left = len(self._unmoved)
            self.settle([self._unmoved.pop(next(iter(self._unmoved)))])
            if len(self._unmoved) == left:
                break  # it is the last in line now, and the others have their turn
        if not self._unmoved:
            self.troubles.end("move")

    def recover(self) -> bool:
        """Settle what a killed run has left, as the last look found it; say if there was any.

        Raises:
            OutputError: As for ``settle``.
        """
        folder_ids = self.inbox.left_behind
        for folder_id in folder_ids:
            try:
                for name in self.after.claims.left(folder_id):
                    self._recover(folder_id, name)
                self.after.claims.tidy(folder_id)
            except OSError as exc:
                complaint = f"cannot put back what is in {folder_id}/{FOLDER}: {exc}"
                if complaint not in self._complaints:
                    self._complaints.add(complaint)
                    _log.error("%s", complaint)
        return bool(folder_ids)

    def _recover(self, folder_id: str, name: str) -> None:
        if self.after.action != "keep":
            with suppress(OSError):  # it cannot be read, and is put back
                file = self.after.claims.describe(folder_id, name)
                known = self.names.known(file.arrival.id)
                for entry in self.ledger.find(list(known)).values():
                    if entry.sha256 == file.sha256:
                        self._finish([replace(file, id=entry.id, ok=entry.outcome == "done")])
                        return
        self.after.claims.put_back(folder_id, name)

    def _is_taken(self, file: Processed) -> bool:
        try:
            taken = self.after.claim(file)
        except OutputError as exc:
            self._wait(file, exc)
            return False
        if not taken:
            self.inbox.again(file.arrival)
        return taken

    def _finish(self, taken: Sequence[Processed]) -> None:
        try:
            right, wrong = self.after.confirm(taken)
            for file in wrong:
                self.inbox.again(file.arrival)
            if right:
                self._remember(right, gone=True)
                self.ledger.commit()
        except BaseException:
            self.after.give_back(taken)
            for file in taken:
                self.inbox.again(file.arrival)
            raise
        for file in right:
            try:
                self.after.release(file)
            except OutputError as exc:
                self._remember([file], gone=False)
                self._wait(file, exc)
            else:
                self.inbox.forget(file.arrival.id)  # should it come again, the ledger knows
        self.after.sync()

    def _remember(self, files: Sequence[Processed], *, gone: bool) -> None:
        failing = self.account.failing
        self.files.put(
            SourceFile(file.id, file.arrival.id, gone, unreported=file.id in failing)
            for file in files
        )

    def _wait(self, file: Processed, exc: OutputError) -> None:
        self._unmoved[file.id] = file
        if "move" not in self.troubles:  # the next files will say the same
            self.troubles.begin("move", exc)
