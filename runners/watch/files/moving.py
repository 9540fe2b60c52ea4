"""Moves and deletes files and updates the ledger, so that a kill at any point loses nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from pipeline.errors import OutputError
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.ledger.source_files import SourceFile, SourceFiles
from runners.watch.counts import UnreportedCounts
from runners.watch.files.claims import FOLDER, ProcessedFile
from runners.watch.files.input_ids import InputIds
from runners.watch.files.postprocessing import PostProcessing
from runners.watch.health import HealthIssues
from runners.watch.inbox.inbox import Inbox

_log = logging.getLogger("d2run")


@dataclass
class FileMover:
    """Moves and deletes files whose outcomes are committed.

    A file gets a private name and is compared with what was decoded, the ledger records that it is
    gone, and only then is it moved or deleted. For files that a killed run has left under private
    names, the move is completed if the ledger has their outcome; otherwise they are restored.

    Attributes:
        post_processing: Moves or deletes one file.
        ledger: Holds the outcomes.
        files: Records which files are gone.
        input_ids: The input of each file.
        unreported: Holds which inputs are failing.
        inbox: Checks changed files again.
        health: Shows that files cannot be moved.
    """

    post_processing: PostProcessing
    ledger: Ledger
    files: SourceFiles
    input_ids: InputIds
    unreported: UnreportedCounts
    inbox: Inbox
    health: HealthIssues
    _unmoved: dict[str, ProcessedFile] = field(default_factory=dict, init=False)
    _logged: set[str] = field(default_factory=set, init=False)

    def process(self, files: Sequence[ProcessedFile]) -> None:
        """Move or delete files as configured; those that cannot be moved are retried later.

        Raises:
            OutputError: The ledger cannot be written, or a move cannot be made durable.
        """
        if self.post_processing.action != "keep":
            self._apply([file for file in files if self._claim(file)])

    def retry(self) -> None:
        """Move files that could not be moved before, until one fails again.

        Raises:
            OutputError: As for ``process``.
        """
        while self._unmoved:
            n_left = len(self._unmoved)
            self.process([self._unmoved.pop(next(iter(self._unmoved)))])
            if len(self._unmoved) == n_left:
                break  # the file is last in line now, so that the next retry tries another one
        if not self._unmoved:
            self.health.resolve("move")

    def recover(self) -> bool:
        """Complete or undo the moves that a killed run left, as found by the last scan.

        Returns:
            Whether a killed run left any files.

        Raises:
            OutputError: As for ``process``.
        """
        claims, folder_ids = self.post_processing.claims, self.inbox.claim_folders
        for folder_id in folder_ids:
            try:
                for name in claims.leftovers(folder_id):
                    self._recover(folder_id, name)
                claims.remove_folder(folder_id)
            except OSError as exc:
                text = f"cannot restore the files in {folder_id}/{FOLDER}: {exc}"
                if text not in self._logged:
                    self._logged.add(text)
                    _log.error("%s", text)
        return bool(folder_ids)

    def _recover(self, folder_id: str, name: str) -> None:
        claims = self.post_processing.claims
        if self.post_processing.action != "keep":
            with suppress(OSError):  # an unreadable file is restored
                file = claims.read_leftover(folder_id, name)
                known = self.input_ids.known(file.arrival.id)
                for entry in self.ledger.find(list(known)).values():
                    if entry.sha256 == file.sha256:
                        is_done = entry.outcome == "done"
                        self._apply([replace(file, id=entry.id, is_done=is_done)])
                        return
        claims.restore(folder_id, name)

    def _claim(self, file: ProcessedFile) -> bool:
        try:
            is_claimed = self.post_processing.claim(file)
        except OutputError as exc:
            self._retry_later(file, exc)
            return False
        if not is_claimed:
            self.inbox.recheck(file.arrival)
        return is_claimed

    def _apply(self, claimed: Sequence[ProcessedFile]) -> None:
        try:
            unchanged, changed = self.post_processing.verify(claimed)
            for file in changed:
                self.inbox.recheck(file.arrival)
            if unchanged:
                self._record(unchanged, gone=True)
                self.ledger.commit()
        except BaseException:
            self.post_processing.restore(claimed)
            for file in claimed:
                self.inbox.recheck(file.arrival)
            raise
        for file in unchanged:
            try:
                self.post_processing.apply(file)
            except OutputError as exc:
                self._record([file], gone=False)
                self._retry_later(file, exc)
            else:
                self.inbox.forget(file.arrival.id)  # if the file returns, the ledger has its result
        self.post_processing.sync()

    def _record(self, files: Sequence[ProcessedFile], *, gone: bool) -> None:
        failing = self.unreported.failing
        self.files.put(
            SourceFile(file.id, file.arrival.id, gone, unreported=file.id in failing)
            for file in files
        )

    def _retry_later(self, file: ProcessedFile, exc: OutputError) -> None:
        self._unmoved[file.id] = file
        if "move" not in self.health:  # the next files will fail for the same reason
            self.health.report("move", exc)
