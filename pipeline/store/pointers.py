"""What lies in a model's folder beside its versions: ``latest`` and the aliases, a file each."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ModelCorruptError
from pipeline.store.entry import INFO, open_entry
from pipeline.store.tags import LATEST, is_name


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
    stands = {path.name: _content(path) for path in files if is_name(path.name)}
    stands.pop(LATEST, None)
    there = versions_in(home) if stands else []
    return {alias: version for alias, version in sorted(stands.items()) if version in there}


def latest_of(home: Path, versions: list[str]) -> str:
    """Return the version that ``latest`` names, or the newest where it names none."""
    version = _content(home / LATEST)
    if version in versions:
        return version
    # a crash between the two renames of a save, or a version deleted by hand

    def age(name: str) -> str:
        try:
            return str(open_entry(home / name).info["created"])
        except ModelCorruptError:
            return ""

    return max(versions, key=age)


def _content(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
