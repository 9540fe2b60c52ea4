"""The source for the images in an archive, read in place: ``.zip``, ``.tar``, ``.tar.gz``."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.sources.archives.gzip_blocks import GzipBlocks, GzipStream
from pipeline.sources.archives.listing import Listing, Member
from pipeline.sources.archives.members import MemberAsset, PackedAsset, Place
from pipeline.sources.archives.tars import list_tar
from pipeline.sources.archives.zips import list_zip
from pipeline.sources.asset import Skipped, check_options, user_path
from pipeline.sources.decode.options import MAX_PIXELS
from pipeline.sources.paths import Origin, real_path
from pipeline.sources.scratch import Scratch
from pipeline.system.files import RegularFile
from pipeline.system.os_errors import describe_os_error

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
UNSUPPORTED = (
    *(".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst"),
    *(".7z", ".rar", ".gz", ".bz2", ".xz", ".zst"),
)


@dataclass(frozen=True, slots=True)
class _Listed:
    """What was found in a version of an archive."""

    place: Place
    blocks: GzipBlocks | None
    members: list[Member]
    skipped: list[Skipped]


class Archive:
    """Lists the images in an archive. They are read in place; nothing is unpacked to disk.

    Ids are the names of the members, as relative paths; ``..`` becomes ``__``. Members of a zip
    are in natural order, those of a tar in the order of the archive, which is how it is read
    fastest. Links, devices, and files that are skipped in directories are skipped here, too.

    An archive is listed once, by reading its headers; a ``.tar.gz`` is decompressed once for that.
    A truncated or damaged archive gives what can be found, and a warning.

    Args:
        input: A ``.zip``, ``.tar``, ``.tar.gz`` or ``.tgz``. The content decides which.
        exif: Apply the EXIF orientation.
        max_pixels: Refuse larger images.

    Raises:
        ConfigError: An argument is invalid. Whether the file is an archive is checked by
            ``check()``.
    """

    def __init__(self, input: str, exif: bool = True, max_pixels: int = MAX_PIXELS) -> None:
        self.input = check_options(input, max_pixels)
        self.exif = exif
        self.max_pixels = max_pixels
        self._listed: _Listed | None = None
        self._scratch = Scratch()

    def check(self) -> None:
        """Check that the file is an archive, without listing it.

        Raises:
            ConfigError: It cannot be read, or is neither a zip nor a tar.
        """
        with self._opened() as file:
            self._kind(file)

    def __iter__(self) -> Iterator[MemberAsset]:
        """List the archive, unless it is unchanged since, and return its images as assets.

        Raises:
            ConfigError: As ``check()``, or there is no intact member.
        """
        return self._assets(self._list())

    def __len__(self) -> int:
        """Return the number of images."""
        return len((self._listed or self._list()).members)

    def skipped(self) -> list[Skipped]:
        """Return the members that were skipped, and why."""
        return (self._listed or self._list()).skipped

    def origins(self) -> list[Origin]:
        """Return what distinguishes this input from any other."""
        return [Origin(real_path(user_path(self.input)))]

    def _assets(self, listed: _Listed) -> Iterator[MemberAsset]:
        for member in listed.members:
            kind = MemberAsset if listed.blocks is None else PackedAsset
            asset = kind(member.id, listed.place.path, exif=self.exif, max_pixels=self.max_pixels)
            asset.member, asset.place = member, listed.place
            if isinstance(asset, PackedAsset) and listed.blocks is not None:
                asset.blocks, asset.scratch = listed.blocks, self._scratch
            yield asset

    def _list(self) -> _Listed:
        with self._opened() as file:
            status = os.fstat(file.fileno())
            place = Place(self._path, status.st_size, status.st_mtime_ns)
            if self._listed is None or self._listed.place != place:
                try:
                    self._listed = self._read(file, place)
                except OSError as exc:
                    raise self._unreadable(exc) from exc
            return self._listed

    def _read(self, file: RegularFile, place: Place) -> _Listed:
        listing, blocks, kind = Listing(), None, self._kind(file)
        file.seek(0)
        if kind == "zip":
            list_zip(file, listing)
        elif kind == "gzip":
            blocks = GzipBlocks(place.path, (place.size_bytes, place.mtime_ns))
            list_tar(GzipStream(blocks), place.size_bytes, listing)
        else:
            list_tar(file, place.size_bytes, listing)
        members = listing.members(natural_order=kind == "zip")
        return _Listed(place, blocks, members, listing.skipped())

    def _kind(self, file: RegularFile) -> str:
        start = file.read(512)
        if start.startswith(b"\x1f\x8b"):
            return "gzip"
        if start[257:262] == b"ustar":
            return "tar"
        if start.startswith((b"PK\3\4", b"PK\5\6")) or zipfile.is_zipfile(file):
            return "zip"
        if start and not start.strip(b"\0"):  # a tar without members
            return "tar"
        raise ConfigError(f"input: '{self._path}' is not a zip, tar or tar.gz archive")

    @property
    def _path(self) -> Path:
        return user_path(self.input).absolute()

    def _opened(self) -> RegularFile:
        try:
            return RegularFile(self._path)
        except OSError as exc:
            raise self._unreadable(exc) from exc

    def _unreadable(self, exc: OSError) -> ConfigError:
        return ConfigError(f"input: cannot read '{self._path}': {describe_os_error(exc)}")
