"""Maps files to input ids; a reused file name can be a new input."""

from __future__ import annotations

import os
from collections.abc import Callable, Container

from runners.rundir.ledger.ledger import Ledger
from runners.rundir.ledger.source_files import SourceFile, SourceFiles
from runners.watch.files.directories import numbered
from runners.watch.files.postprocessing import PostProcessing
from runners.watch.inbox.versions import Arrival


class InputIds:
    """Maps each file to the id of its input.

    The id is the file's name, unless an earlier file of this name with other content was moved or
    deleted by d2run. Then it is the next of ``x~2.jpg``, ``x~3.jpg`` ... that no input, no other
    file and no moved file has, so that the file can be moved under its id. A file that only changed
    remains the same input, and so does one that returned with the same content.

    Args:
        ledger: Holds the inputs.
        files: Records which of their files are gone.
        post_processing: Knows the destinations of moved files.
    """

    def __init__(self, ledger: Ledger, files: SourceFiles, post_processing: PostProcessing) -> None:
        self._ledger, self._source_files, self._post_processing = ledger, files, post_processing

    def id_of(
        self, arrival: Arrival, fingerprint: Callable[[], str | None], used: Container[str]
    ) -> str:
        """Return the id of a file's input.

        Args:
            arrival: The file.
            fingerprint: Returns the SHA-256 of the file's content; ``None`` if it is unreadable.
            used: Ids of other files that are being processed.
        """
        known = self.known(arrival.id)
        present = [asset_id for asset_id, file in known.items() if not file.gone]
        if len(present) < len(known):
            sha256 = fingerprint()
            for entry in self._ledger.find(list(known)).values():
                if sha256 is not None and entry.sha256 == sha256:
                    self._mark_present(known[entry.id])
                    return entry.id
        if present:
            return present[0]
        return self._unused_id(arrival, fingerprint, used)

    def known(self, name: str) -> dict[str, SourceFile]:
        """Return the inputs whose files had this name, by id."""
        rows = {file.id: file for file in self._source_files.of_name(name)}
        if name not in rows and self._ledger.find([name]):
            rows[name] = SourceFile(name, name)
        return {asset_id: file for asset_id, file in rows.items() if file.name == name}

    def _mark_present(self, file: SourceFile) -> None:
        if file.gone:
            file.gone = False
            self._source_files.put([file])

    def _unused_id(
        self, arrival: Arrival, fingerprint: Callable[[], str | None], used: Container[str]
    ) -> str:
        moved = self._post_processing
        for asset_id in numbered(arrival.id):
            if asset_id in used or self._ledger.find([asset_id]):
                continue
            if asset_id != arrival.id and os.path.lexists(moved.root / asset_id):
                continue
            if moved.action == "keep" or not moved.has_other_content(asset_id, fingerprint):
                return asset_id
        raise AssertionError  # there is always another number
