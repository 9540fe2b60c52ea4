"""Scan a directory: which files are images, in which order, and what is skipped and why."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from pipeline.sources.asset import Skipped
from pipeline.sources.decode.formats import extras
from pipeline.system.files import file_identity
from pipeline.system.os_errors import describe_os_error

# fmt: off
IMAGES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".bmp", ".dib",
    ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpf", ".jpx",
))
VIDEOS = frozenset((
    ".mp4", ".m4v", ".mov", ".qt", ".avi", ".divx", ".mkv", ".webm", ".mpg", ".mpeg", ".m2v",
    ".vob", ".ts", ".mts", ".m2ts", ".wmv", ".asf", ".flv", ".f4v", ".ogv", ".3gp", ".3g2", ".mxf",
))
VIDEO = "video"  # the reason
_OTHER_IMAGES = frozenset((
    ".svg", ".eps", ".psd", ".ico", ".tga", ".exr", ".hdr", ".fits",
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
_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)

# files of a run directory: an output inside the input must not become input of the next run
OF_A_RUN = (".lock", "run.json")


@dataclass(frozen=True, slots=True)
class Scan:
    """The result of a scan.

    Attributes:
        root: The directory that the ids are relative to.
        images: Id of each file to read, in natural order.
        skipped: Skipped entries, in natural order.
    """

    root: Path
    images: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def natural_key(asset_id: str) -> str:
    """Return a sort key: ``img2`` before ``img10``, directory by directory, ignoring case.

    The order is total: names that differ only in case or zero padding are ordered by their
    characters.
    """
    # One str per id, because there may be a million. NUL, which no name contains, sorts before
    # every other character. It ends the text before a number, the whole text, and the name.
    return "\0".join(map(_name_key, asset_id.split("/")))


def _name_key(name: str) -> str:
    return f"{_DIGITS.sub(_number, name.casefold())}\0\0{name}"


def _number(match: re.Match[str]) -> str:
    digits = match[0].lstrip("0")
    return f"\0{chr(len(digits) + 1)}{digits}"  # the number with more digits is larger


def skip_reason(name: str) -> str | None:
    """Return why a file or directory of this name is always skipped; ``None`` if not."""
    if name.startswith("."):
        return "hidden"
    lower = name.lower()
    if lower in _SYSTEM:
        return "system file"
    if lower.endswith(_TEMPORARY) or (lower[:1] in "~#" and _OF_AN_EDITOR.match(lower)):
        return "temporary file"
    return None


def not_an_image(name: str) -> str | None:
    """Return why a file of this name is not an image; ``None`` if it is one."""
    dot = name.rfind(".")
    return _no_image_has(name[dot:] if 0 < dot < len(name) - 1 else "")


@lru_cache  # so that a million files share a few strings
def _no_image_has(suffix: str) -> str | None:
    suffix = suffix.lower()
    if suffix in IMAGES:
        return None
    if suffix in extras.SUFFIXES:
        extra = extras.missing_extra(suffix)
        return extra and f"unsupported image format ({suffix} needs the extra {extra})"
    if suffix in VIDEOS:
        return VIDEO
    if suffix in _OTHER_IMAGES:
        return f"unsupported image format ({suffix})"
    return f"not an image ({suffix or 'no extension'})"


def scan(
    root: Path,
    *,
    depth: int | None = None,
    includes: Callable[[str], bool] = lambda _: True,
    refusal: Callable[[str], str | None] = not_an_image,
) -> Scan:
    """List the files in a directory that are to be read, without opening any.

    Links to files are followed. Each real directory is visited once, and directories above
    ``root`` never, so loops of links end. If a directory is reachable with and without a link, the
    path without the link is used.

    Args:
        root: An existing directory.
        depth: Number of levels to visit; 1 means ``root`` alone, ``None`` means all.
        includes: Whether an id is part of the input; other entries are not even skipped.
        refusal: Returns why a file of this name is skipped; ``None`` if it is not. By default,
            only images are read.

    Raises:
        OSError: ``root`` itself cannot be listed. A subdirectory that cannot is in ``skipped``.
    """
    return _Walk(root, depth, includes, refusal).run()


class _Walk:
    def __init__(
        self,
        root: Path,
        depth: int | None,
        includes: Callable[[str], bool],
        refusal: Callable[[str], str | None],
    ) -> None:
        self.found = Scan(root)
        self.depth = depth
        self.includes = includes
        self.refusal = refusal
        # by directory: names, with a trailing "/" for directories, and skipped entries
        self.names: dict[str, list[str | Skipped]] = {}
        self.folders = [""]
        self.links: list[str] = []  # links to directories, visited last
        self.seen = {file_identity(parent.stat()) for parent in root.resolve().parents}

    def run(self) -> Scan:
        while self.folders or self.links:
            if not self.folders:
                # sorted, so that the result does not depend on the order of the disk
                self.links.sort(key=natural_key, reverse=True)
                self.folders.append(self.links.pop())
            folder_id = self.folders.pop()
            try:
                self.folder(folder_id)
            except OSError as exc:
                if not folder_id:
                    raise
                self.skip(folder_id, describe_os_error(exc), lost=True)
        self.put_in_order()
        return self.found

    def folder(self, folder_id: str) -> None:
        """Scan one directory; its id is ``""`` or ends with ``/``."""
        path = os.path.join(self.found.root, folder_id)  # noqa: PTH118
        identity = file_identity(os.stat(path))  # noqa: PTH116 - a str
        if identity in self.seen:
            self.skip(folder_id, "link to a directory that is already included")
            return
        self.seen.add(identity)
        if folder_id and all(os.path.exists(path + name) for name in OF_A_RUN):  # noqa: PTH110
            self.skip(folder_id, "results of a run")
            return
        names = self.names[folder_id] = []
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                reason = skip_reason(name)
                if reason is None and entry.is_file(follow_symlinks=False):  # nearly all are
                    reason = self.refusal(name)
                    if reason is None and self.includes(folder_id + name):
                        names.append(name)
                elif reason is None:
                    reason = self.entry(folder_id, entry)
                if reason and self.includes(folder_id + name):
                    self.skip(folder_id + name, reason)

    def entry(self, folder_id: str, entry: os.DirEntry[str]) -> str | None:
        """Handle an entry that is not a regular file; return why it is skipped, if it is."""
        link = entry.is_symlink()
        try:
            mode = entry.stat().st_mode if link else 0
        except OSError as exc:
            return "dangling link" if exc.errno in _NOWHERE else describe_os_error(exc)
        if stat.S_ISDIR(mode) or entry.is_dir(follow_symlinks=False):
            if self.depth is not None and folder_id.count("/") + 1 >= self.depth:
                return "directory that is not searched"
            self.names[folder_id].append(f"{entry.name}/")
            (self.links if link else self.folders).append(f"{folder_id}{entry.name}/")
            return None
        if not stat.S_ISREG(mode):
            return "not a regular file"
        reason = self.refusal(entry.name)
        if reason is None and self.includes(folder_id + entry.name):
            self.names[folder_id].append(entry.name)
        return reason

    def skip(self, asset_id: str, reason: str, lost: bool = False) -> None:
        path = asset_id.removesuffix("/")
        parent = path[: path.rfind("/") + 1]
        self.names[parent].append(Skipped(path, reason, lost))

    def put_in_order(self) -> None:
        """Move the names to ``found``, directory by directory, to hold few sort keys in memory."""
        images, skipped = self.found.images, self.found.skipped
        ahead: list[str | Skipped] = [""]
        while ahead:
            entry = ahead.pop()
            if isinstance(entry, Skipped):
                skipped.append(entry)
            elif entry and not entry.endswith("/"):
                images.append(entry)
            else:
                inside = self.names.pop(entry, [])
                inside.sort(key=None if _is_one_shape(inside) else _key_in_folder, reverse=True)
                ahead += [entry + each if isinstance(each, str) else each for each in inside]


def _is_one_shape(entries: list[str | Skipped]) -> bool:
    """Return whether entries are names that differ in digits only, at the same positions.

    Their natural order is then that of their characters, which takes a tenth of the time.
    """
    if {*map(type, entries)} != {str}:
        return False
    shapes = os.fsencode("\0".join(entries)).translate(_ZEROS)  # type: ignore[arg-type]
    return len({*shapes.split(b"\0")}) == 1


def _key_in_folder(entry: str | Skipped) -> str:
    return natural_key(entry if isinstance(entry, str) else entry.path.rpartition("/")[2])
