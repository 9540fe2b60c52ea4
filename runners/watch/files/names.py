"""Which input a file that arrives is: a name that comes again may be another one."""

from __future__ import annotations

import os
from collections.abc import Callable, Container

from runners.rundir.ledger.ledger import Ledger
from runners.rundir.ledger.source_files import SourceFile, SourceFiles
from runners.watch.files.after import After
from runners.watch.files.folders import numbered
from runners.watch.inbox.versions import Arrival


class Names:
    """Gives each file the id of its input.

    That is the file's name, unless d2run moved or deleted an earlier file of this name with other
    content. Then it is the next of ``x~2.jpg``, ``x~3.jpg`` ... that no input, no other file and
    no moved file has, so that the moved file can have this name too. A file that only changed
    stays the same input, and so does one that came back with the content it had.

    Args:
        ledger: Knows the inputs.
        files: Knows which of their files are gone.
        after: Knows what was moved.
    """

    def __init__(self, ledger: Ledger, files: SourceFiles, after: After) -> None:
        self._ledger, self._files, self._after = ledger, files, after

    def id_of(
        self, arrival: Arrival, fingerprint: Callable[[], str | None], taken: Container[str]
    ) -> str:
        """Return the id of the input that a file is.

        Args:
            arrival: The file.
            fingerprint: Returns the SHA-256 of its content, ``None`` if it cannot be read.
            taken: Ids that other files have which are processed now.
        """
        known = self.known(arrival.id)
        changed = [asset_id for asset_id, file in known.items() if not file.gone]
        if len(changed) < len(known):
            sha256 = fingerprint()
            for entry in self._ledger.find(list(known)).values():
                if sha256 is not None and entry.sha256 == sha256:
                    self._is_back(known[entry.id])
                    return entry.id
        if changed:
            return changed[0]
        return self._free(arrival, fingerprint, taken)

    def known(self, name: str) -> dict[str, SourceFile]:
        """Return the inputs whose files had this name, by id."""
        rows = {file.id: file for file in self._files.of_name(name)}
        if name not in rows and self._ledger.find([name]):
            rows[name] = SourceFile(name, name)
        return {asset_id: file for asset_id, file in rows.items() if file.name == name}

    def _is_back(self, file: SourceFile) -> None:
        if file.gone:
            file.gone = False
            self._files.put([file])

    def _free(
        self, arrival: Arrival, fingerprint: Callable[[], str | None], taken: Container[str]
    ) -> str:
        for asset_id in numbered(arrival.id):
            if asset_id in taken or self._ledger.find([asset_id]):
                continue
            if asset_id != arrival.id and os.path.lexists(self._after.root / asset_id):
                continue
            if self._after.action == "keep" or not self._after.holds_another(asset_id, fingerprint):
                return asset_id
        raise AssertionError  # there is always another number
