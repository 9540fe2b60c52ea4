"""The listing of an archive: which members are images, under which ids, and what is skipped."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.sources.asset import Skipped
from pipeline.sources.scan import OF_A_RUN, VIDEO, natural_key, not_an_image, skip_reason


class Member(NamedTuple):
    """An image in an archive; the fields after ``id`` are those of ``part.Part``."""

    id: str
    offset: int
    size: int
    stored: int = 0
    method: int | None = None
    crc: int = 0


def member_id(name: str) -> str:
    """Return the name of a member as a relative path without ``..``; ``""`` if nothing is left."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/".join("__" if part == ".." else part for part in parts)


class Listing:
    """Collects the members of an archive, with the rules for directories on disk.

    If several members have the same id, the last one counts, because unpacking leaves that one.
    """

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._skipped: dict[str, Skipped] = {}
        self._replaced: list[Skipped] = []
        self._folders: dict[str, bool] = {"": True}  # whether to look into it
        self._of_runs: dict[str, set[str]] = {}

    def add(
        self, name: str, reason: str | None, place: tuple[int, ...], *, by_name: bool = True
    ) -> None:
        """Add a member that is not a directory.

        Args:
            name: Its name in the archive.
            reason: Why it is skipped, whatever its name; ``None`` if it is a regular file.
            place: The other fields of its ``Member``.
            by_name: Whether its name decides if it is an image; otherwise it is one.
        """
        asset_id = member_id(name)
        folder, _, name = asset_id.rpartition("/")
        if not name or not self._is_listed(folder):
            return
        if name in OF_A_RUN:
            self._of_runs.setdefault(folder, set()).add(name)
        if by_name:
            reason = skip_reason(name) or reason or not_an_image(name)
        if reason == VIDEO:
            reason = "video in an archive, which is not read: unpack it"
        if reason:
            self._skipped[asset_id] = Skipped(asset_id, reason)
            return
        if self._members.pop(asset_id, None):
            self._replaced.append(Skipped(asset_id, "replaced by a later member of the same name"))
        self._members[asset_id] = Member(asset_id, *place)

    def lose(self, reason: str) -> None:
        """Note that the rest of the archive cannot be listed."""
        self._replaced.append(Skipped("(the rest of the archive)", reason, lost=True))

    def members(self, *, natural_order: bool) -> list[Member]:
        """Return the images, in natural order or in that of the archive."""
        runs = [folder for folder, names in self._of_runs.items() if folder and len(names) > 1]
        members = list(self._members.values())
        if runs:
            prefixes = tuple(f"{folder}/" for folder in runs)
            members = [member for member in members if not member.id.startswith(prefixes)]
            self._skipped = {
                path: entry
                for path, entry in self._skipped.items()
                if not path.startswith(prefixes)
            } | {folder: Skipped(folder, "results of a run") for folder in runs}
        if natural_order:
            members.sort(key=lambda member: natural_key(member.id))
        return members

    def skipped(self) -> list[Skipped]:
        """Return what is skipped; complete after ``members``."""
        return [*self._skipped.values(), *self._replaced]

    def _is_listed(self, folder: str) -> bool:
        """Return whether the images in a directory count; report one that is skipped, once."""
        known = self._folders.get(folder)
        if known is None:
            parent, _, name = folder.rpartition("/")
            known = self._is_listed(parent)
            if known and (reason := skip_reason(name)):
                self._skipped[folder] = Skipped(folder, reason)
                known = False
            self._folders[folder] = known
        return known
