"""What lies in a model's folder beside its versions: ``latest`` and the aliases, a file each."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

from pipeline.errors import ConfigError, StoreError
from pipeline.store.disk.entry import INFO, open_entry
from pipeline.store.disk.tags import LATEST, is_name, parse_tag
from pipeline.system.files import RegularFile, write_whole

_MAX_POINTER = 4096  # bytes; a version's name has at most 63

LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)


def folders_in(parent: Path) -> list[Path]:
    """Return the folders in a folder, sorted; none if it is not there."""
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def versions_in(home: Path) -> list[str]:
    """Return the versions in a model's folder, sorted by name."""
    if not home.is_dir():
        return []
    return sorted(
        entry.name for entry in home.iterdir() if is_name(entry.name) and (entry / INFO).is_file()
    )


def aliases_in(home: Path) -> dict[str, str]:
    """Return the version of each alias; one whose version is gone counts for nothing."""
    files = [path for path in home.iterdir() if path.is_file()] if home.is_dir() else []
    stands = {path.name: content(path) for path in files if is_name(path.name)}
    stands.pop(LATEST, None)
    there = versions_in(home) if stands else []
    return {alias: version for alias, version in sorted(stands.items()) if version in there}


def latest_of(home: Path, versions: list[str]) -> str:
    """Return the version that ``latest`` names, or the newest where it names none."""
    version = content(home / LATEST)
    if version in versions:
        return version
    # a crash between the two renames of a save, or a version deleted by hand
    return max(versions, key=lambda name: created(home / name))


def created(version: Path) -> datetime:
    """Return when a version was made; one that is damaged is the oldest."""
    try:
        return open_entry(version).info.creation_time
    except (StoreError, ConfigError, KeyError, TypeError, ValueError):
        return LONG_AGO


def meant_by(tag: str, home: Path) -> str | None:
    """Return the version in a model's folder that a tag means; ``None`` if there is none.

    Raises:
        StoreError: It is the beginning of several versions.
    """
    _, wanted = parse_tag(tag)
    versions = versions_in(home)
    if versions and wanted in ("", LATEST):
        return latest_of(home, versions)
    if wanted in versions or (wanted and (home / wanted).is_dir()):  # what is damaged is named too
        return wanted
    if alias := aliases_in(home).get(wanted):
        return alias
    begun = [version for version in versions if version.startswith(wanted)]
    if len(begun) > 1:
        raise StoreError(
            f"'{tag}' is the beginning of several versions, {', '.join(begun)}; write more of it"
        )
    return begun[0] if begun else None


def point_to_latest(home: Path) -> None:
    """Have ``latest`` name a version that is there, in a folder whose lock the caller holds."""
    versions = versions_in(home)
    if versions:
        write_whole(home / LATEST, latest_of(home, versions))
    else:
        (home / LATEST).unlink(missing_ok=True)
    descriptor = os.open(home, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def content(path: Path) -> str:
    """Return the first bytes of a small text file; ``""`` if there is none."""
    if not path.is_file():
        return ""
    with RegularFile(path) as file:
        return file.read(_MAX_POINTER).decode(errors="replace")
