"""Names of versions: ``latest`` and aliases, each a file in the model's directory."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from pipeline.errors import ConfigError, StoreError
from pipeline.store.disk.tags import LATEST, Tag, TagLike, is_name
from pipeline.store.disk.version import INFO, open_version
from pipeline.system.files import RegularFile, sync_folder, write_whole

_MAX_POINTER = 4096  # bytes; a version has at most 63

EARLIEST = datetime.min.replace(tzinfo=timezone.utc)


def folders_in(parent: Path) -> list[Path]:
    """Return the sorted directories in a directory; empty if it does not exist."""
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def versions_in(home: Path) -> list[str]:
    """Return the versions in a model's directory, sorted by name."""
    if not home.is_dir():
        return []
    return sorted(
        path.name for path in home.iterdir() if is_name(path.name) and (path / INFO).is_file()
    )


def aliases_in(home: Path) -> dict[str, str]:
    """Return the version of each alias, without aliases of deleted versions."""
    files = [path for path in home.iterdir() if path.is_file()] if home.is_dir() else []
    pointers = {path.name: read_pointer(path) for path in files if is_name(path.name)}
    pointers.pop(LATEST, None)
    versions = versions_in(home) if pointers else []
    return {alias: version for alias, version in sorted(pointers.items()) if version in versions}


def latest_version(home: Path, versions: list[str]) -> str:
    """Return the version that ``latest`` names, otherwise the newest."""
    version = read_pointer(home / LATEST)
    if version in versions:
        return version
    # after a crash between the two renames of a save, or if a version was deleted by hand
    return max(versions, key=lambda name: creation_time(home / name))


def creation_time(version: Path) -> datetime:
    """Return when a version was saved; a damaged one counts as the oldest."""
    try:
        return open_version(version).info.creation_time
    except (StoreError, ConfigError, KeyError, TypeError, ValueError):
        return EARLIEST


def matching_versions(tag: Tag, home: Path) -> list[str]:
    """Return the versions in a model's directory that a tag matches; all for a bare name.

    Several match only a bare name, or a version that is the start of their names.
    """
    versions = versions_in(home)
    name = tag.version
    if name is None:
        return versions
    if name == LATEST:
        return [latest_version(home, versions)] if versions else []
    if name in versions or (home / name).is_dir():  # damaged versions too
        return [name]
    if version := aliases_in(home).get(name):
        return [version]
    return [version for version in versions if version.startswith(name)]


def resolve_version(tag: TagLike, home: Path) -> str | None:
    """Return the version in a model's directory that a tag names; ``None`` if there is none.

    Raises:
        StoreError: The tag is the start of several versions.
    """
    tag = Tag.from_taglike(tag)
    matches = matching_versions(tag if tag.version else Tag(tag.name, LATEST), home)
    if len(matches) > 1:
        raise StoreError(
            f"'{tag}' matches several versions: {', '.join(matches)}; use a longer prefix"
        )
    return matches[0] if matches else None


def update_latest(home: Path) -> None:
    """Set ``latest`` to an existing version; the caller holds the directory's lock."""
    versions = versions_in(home)
    if versions:
        write_whole(home / LATEST, latest_version(home, versions))
    else:
        (home / LATEST).unlink(missing_ok=True)
    sync_folder(home)


def read_pointer(path: Path) -> str:
    """Return the first bytes of a small text file; ``""`` if it does not exist."""
    if not path.is_file():
        return ""
    with RegularFile(path) as file:
        return file.read(_MAX_POINTER).decode(errors="replace")
