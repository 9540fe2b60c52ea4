"""Walk a folder: which files are images, which entries are left out and why, in what order."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from pipeline.sources.asset import Skipped
from pipeline.sources.reading import why

# fmt: off
IMAGES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".bmp", ".dib",
    ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpf", ".jpx",
))
VIDEOS = frozenset((
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv",
    ".flv", ".ogv", ".3gp",
))
_OTHER_IMAGES = frozenset((
    ".heic", ".heif", ".jxl", ".svg", ".eps", ".psd", ".ico", ".tga", ".exr", ".hdr", ".fits",
    ".dcm", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
))
_TEMPORARY = (
    "*.part", "*.partial", "*.filepart", "*.tmp", "*.temp", "*.crdownload", "*.download", "*.swp",
    "*~", "~$*", "#*#",
)
_SYSTEM = frozenset((
    "thumbs.db", "desktop.ini", "@eadir", "#recycle", "$recycle.bin", "__macosx", "lost+found",
))
# fmt: on
_NOWHERE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)
_DIGITS = re.compile(r"([0-9]+)")

# an output below the input: its overlays must not become inputs of the next run
_OF_A_RUN = (".lock", "run.json")


@dataclass(frozen=True, slots=True)
class Scan:
    """What a walk found.

    Attributes:
        images: Id and path of each image, in natural order of the ids.
        skipped: What was left out, in natural order.
    """

    images: list[tuple[str, Path]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def natural_key(asset_id: str) -> list[tuple[list[str | int], str]]:
    """Return a sort key: ``img2`` before ``img10``, folder by folder, case aside.

    The order is total: names that differ only by case or zero padding are told apart by their
    characters.
    """
    return [(_tokens(name), name) for name in asset_id.split("/")]


def _tokens(name: str) -> list[str | int]:
    # split() with a group gives text and digits in turn, so like is compared with like
    parts = _DIGITS.split(name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def left_out(name: str) -> str | None:
    """Return why a file or folder of this name is never looked at; ``None`` if it is."""
    if name.startswith("."):
        return "hidden"
    lower = name.lower()
    if lower in _SYSTEM:
        return "system file"
    if any(fnmatchcase(lower, pattern) for pattern in _TEMPORARY):
        return "temporary file"
    return None


def not_an_image(name: str) -> str | None:
    """Return why a file of this name is not taken for an image; ``None`` if it is."""
    suffix = PurePath(name).suffix.lower()
    if suffix in IMAGES:
        return None
    if suffix in VIDEOS:
        return "video"
    if suffix in _OTHER_IMAGES:
        return f"image format that is not read ({suffix})"
    return f"not an image ({suffix or 'no extension'})"


def scan(
    root: Path, *, depth: int | None = None, wanted: Callable[[str], bool] = lambda _: True
) -> Scan:
    """List the images below a folder; nothing is opened.

    Links to files are followed. Each real folder is visited once, and a folder above ``root``
    never, so loops of links end; where a folder can be reached both ways, the one that is not a
    link counts.

    Args:
        root: An existing folder.
        depth: How many levels to go down; 1 is ``root`` alone, ``None`` all.
        wanted: Whether an id is asked for; entries that are not go unmentioned.

    Raises:
        OSError: ``root`` itself cannot be listed. A sub-folder that cannot is in ``skipped``.
    """
    return _Walk(root, depth, wanted).run()


class _Walk:
    def __init__(self, root: Path, depth: int | None, wanted: Callable[[str], bool]) -> None:
        self.found = Scan()
        self.depth = depth
        self.wanted = wanted
        self.folders = [("", str(root))]
        self.links: list[tuple[str, str]] = []  # folders reached by a link, for the end
        self.seen = {_identity(parent) for parent in root.resolve().parents}

    def run(self) -> Scan:
        while self.folders or self.links:
            if not self.folders:
                # which link wins must not hang on the order in which the disk lists them
                self.links.sort(key=lambda link: natural_key(link[0]), reverse=True)
                self.folders.append(self.links.pop())
            folder_id, path = self.folders.pop()
            try:
                self.folder(folder_id, path)
            except OSError as exc:
                if not folder_id:
                    raise
                self.found.skipped.append(Skipped(folder_id, why(exc), lost=True))
        self.found.images.sort(key=lambda image: natural_key(image[0]))
        self.found.skipped.sort(key=lambda entry: natural_key(entry.path))
        return self.found

    def folder(self, folder_id: str, path: str) -> None:
        identity = _identity(path)
        if identity in self.seen:
            self.found.skipped.append(Skipped(folder_id, "link to a folder that is taken already"))
            return
        self.seen.add(identity)
        if folder_id and all(os.path.exists(os.path.join(path, name)) for name in _OF_A_RUN):  # noqa: PTH110, PTH118
            self.found.skipped.append(Skipped(folder_id, "results of a run"))
            return
        with os.scandir(path) as entries:
            for entry in entries:
                entry_id = f"{folder_id}/{entry.name}" if folder_id else entry.name
                reason = left_out(entry.name) or self.entry(entry_id, entry)
                if reason and self.wanted(entry_id):
                    self.found.skipped.append(Skipped(entry_id, reason))

    def entry(self, entry_id: str, entry: os.DirEntry[str]) -> str | None:
        """Take an entry, or return why not."""
        link = entry.is_symlink()
        try:
            mode = entry.stat().st_mode if link else 0
        except OSError as exc:
            return "dangling link" if exc.errno in _NOWHERE else why(exc)
        if stat.S_ISDIR(mode) or entry.is_dir(follow_symlinks=False):
            if self.depth is not None and entry_id.count("/") + 1 >= self.depth:
                return "folder that is not gone into"
            (self.links if link else self.folders).append((entry_id, entry.path))
            return None
        if not (stat.S_ISREG(mode) or entry.is_file(follow_symlinks=False)):
            return "not a regular file"
        reason = not_an_image(entry.name)
        if reason is None and self.wanted(entry_id):
            self.found.images.append((entry_id, Path(entry.path)))
        return reason


def _identity(path: str | Path) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_dev, status.st_ino
