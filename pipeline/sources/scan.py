"""Walk a folder: which files are images, which entries are left out and why, in what order."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from pipeline.sources.asset import Skipped
from pipeline.sources.decode.reading import why
from pipeline.system.files import file_identity

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
    ".part", ".partial", ".filepart", ".tmp", ".temp", ".crdownload", ".download", ".swp", "~",
)
_SYSTEM = frozenset((
    "thumbs.db", "desktop.ini", "@eadir", "#recycle", "$recycle.bin", "__macosx", "lost+found",
))
# fmt: on
_OF_AN_EDITOR = re.compile(r"~\$|#.*#\Z", re.DOTALL)
_NOWHERE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)
_DIGITS = re.compile(r"[0-9]+")

# an output below the input: its overlays must not become inputs of the next run
OF_A_RUN = (".lock", "run.json")


@dataclass(frozen=True, slots=True)
class Scan:
    """What a walk found.

    Attributes:
        root: The folder that the ids are relative to.
        images: Id of each image, in natural order.
        skipped: What was left out, in natural order.
    """

    root: Path
    images: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def natural_key(asset_id: str) -> str:
    """Return a sort key: ``img2`` before ``img10``, folder by folder, case aside.

    The order is total: names that differ only by case or zero padding are told apart by their
    characters.
    """
    # One str, for there may be a million. NUL, which no name holds, goes before every other
    # character: it ends the text in front of a number, the text as a whole, and the name.
    return "\0".join(map(_name_key, asset_id.split("/")))


def _name_key(name: str) -> str:
    return f"{_DIGITS.sub(_number, name.casefold())}\0\0{name}"


def _number(match: re.Match[str]) -> str:
    digits = match[0].lstrip("0")
    return f"\0{chr(len(digits) + 1)}{digits}"  # the longer number is the larger


def left_out(name: str) -> str | None:
    """Return why a file or folder of this name is never looked at; ``None`` if it is."""
    if name.startswith("."):
        return "hidden"
    lower = name.lower()
    if lower in _SYSTEM:
        return "system file"
    if lower.endswith(_TEMPORARY) or _OF_AN_EDITOR.match(lower):
        return "temporary file"
    return None


def not_an_image(name: str) -> str | None:
    """Return why a file of this name is not taken for an image; ``None`` if it is."""
    stem, _, extension = name.rpartition(".")
    return _no_image_has(f".{extension}".lower() if stem and extension else "")


@lru_cache  # a million files have few extensions, and one reason each is enough
def _no_image_has(suffix: str) -> str | None:
    if suffix in IMAGES:
        return None
    if suffix in VIDEOS:
        return "video"
    if suffix in _OTHER_IMAGES:
        return f"unsupported image format ({suffix})"
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
        self.found = Scan(root)
        self.depth = depth
        self.wanted = wanted
        # by folder: names, those of its folders end with "/"; and what is skipped
        self.names: dict[str, list[str | Skipped]] = {}
        self.folders = [""]
        self.links: list[str] = []  # folders reached by a link, for the end
        self.seen = {file_identity(parent.stat()) for parent in root.resolve().parents}

    def run(self) -> Scan:
        while self.folders or self.links:
            if not self.folders:
                # which link wins must not hang on the order in which the disk lists them
                self.links.sort(key=natural_key, reverse=True)
                self.folders.append(self.links.pop())
            folder_id = self.folders.pop()
            try:
                self.folder(folder_id)
            except OSError as exc:
                if not folder_id:
                    raise
                self.skip(folder_id, why(exc), lost=True)
        for entry in self.in_order():
            if isinstance(entry, str):
                self.found.images.append(entry)
            else:
                self.found.skipped.append(entry)
        return self.found

    def folder(self, folder_id: str) -> None:
        """Look through a folder; its id, ``""`` or one that ends with ``/``, begins those in it."""
        path = os.path.join(self.found.root, folder_id)  # noqa: PTH118
        identity = file_identity(os.stat(path))  # noqa: PTH116
        if identity in self.seen:
            self.skip(folder_id, "link to a folder that is already included")
            return
        self.seen.add(identity)
        if folder_id and all(os.path.exists(path + name) for name in OF_A_RUN):  # noqa: PTH110
            self.skip(folder_id, "results of a run")
            return
        names = self.names[folder_id] = []
        with os.scandir(path) as entries:
            for entry in entries:
                reason = left_out(entry.name)
                if reason is None and entry.is_file(follow_symlinks=False):  # nearly all are
                    reason = not_an_image(entry.name)
                    if reason is None and self.wanted(folder_id + entry.name):
                        names.append(entry.name)
                elif reason is None:
                    reason = self.entry(folder_id, entry)
                if reason and self.wanted(folder_id + entry.name):
                    self.skip(folder_id + entry.name, reason)

    def entry(self, folder_id: str, entry: os.DirEntry[str]) -> str | None:
        """Take an entry that is no plain file, or return why not."""
        link = entry.is_symlink()
        try:
            mode = entry.stat().st_mode if link else 0
        except OSError as exc:
            return "dangling link" if exc.errno in _NOWHERE else why(exc)
        if stat.S_ISDIR(mode) or entry.is_dir(follow_symlinks=False):
            if self.depth is not None and folder_id.count("/") + 1 >= self.depth:
                return "folder that is not searched"
            self.names[folder_id].append(f"{entry.name}/")
            (self.links if link else self.folders).append(f"{folder_id}{entry.name}/")
            return None
        if not stat.S_ISREG(mode):
            return "not a regular file"
        reason = not_an_image(entry.name)
        if reason is None and self.wanted(folder_id + entry.name):
            self.names[folder_id].append(entry.name)
        return reason

    def skip(self, asset_id: str, reason: str, lost: bool = False) -> None:
        path = asset_id.removesuffix("/")
        parent = path[: path.rfind("/") + 1]
        self.names[parent].append(Skipped(path, reason, lost))

    def in_order(self) -> Iterator[str | Skipped]:
        """Yield the images' ids and what is skipped.

        Done folder by folder, so that there are few sort keys at once.
        """
        ahead: list[str | Skipped] = [""]
        while ahead:
            entry = ahead.pop()
            if isinstance(entry, Skipped) or (entry and not entry.endswith("/")):
                yield entry
                continue
            inside = self.names.pop(entry, [])
            inside.sort(key=_key_in_folder, reverse=True)
            ahead += [entry + each if isinstance(each, str) else each for each in inside]


def _key_in_folder(entry: str | Skipped) -> str:
    return natural_key(entry if isinstance(entry, str) else entry.path.rpartition("/")[2])
