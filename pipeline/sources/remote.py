"""The source for images in remote stores that fsspec supports: ``s3://``, ``gs://``, ``https://``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pipeline.errors import ConfigError
from pipeline.redaction import redacted_text
from pipeline.sources.archives.listing import Listing
from pipeline.sources.asset import ImageAsset, Skipped, check_options
from pipeline.sources.copies import read_copy
from pipeline.sources.decode.options import MAX_PIXELS
from pipeline.sources.decode.reading import Reading, Version, read_version
from pipeline.sources.fetching import Fetcher, RemoteObject, reason
from pipeline.sources.paths import Origin
from pipeline.validation import check_flag, check_whole

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LOCAL = ("file", "local", "data", "reference", "generic", "dir")
_MODIFIED = ("LastModified", "last_modified", "mtime", "updated", "Last-Modified", "created")


@dataclass(slots=True)
class RemoteAsset(ImageAsset):
    """An image in a remote store, decoded from a temporary copy.

    Attributes:
        content: The object.
        fetcher: Fetches it.
    """

    content: RemoteObject = field(init=False)
    fetcher: Fetcher = field(init=False, repr=False)

    def status(self) -> tuple[int | None, int | None]:
        """Return the size and the modification time as listed."""
        return self.content.size, self.content.mtime_ns

    def fetch_ahead(self) -> None:
        """Start to fetch the object, if there is room for it."""
        self.fetcher.fetch_ahead(self.content)

    def _version(self) -> Version:
        with self.fetcher.file(self.content) as path:
            size, _, digest = read_version(path)
        return size, self.content.mtime_ns or 0, digest

    def _reading(self) -> Reading:
        with self.fetcher.file(self.content) as path:
            return read_copy(
                self.reader,
                path,
                self.content.mtime_ns,
                exif=self.exif,
                max_pixels=self.max_pixels,
            )


class Remote:
    """Lists the images at an address: an object, a directory, or a glob; in natural order.

    Objects are copied to temporary files, some of them ahead, and removed once they are decoded.
    Each fetch is tried up to five times. Size and, if the store has it, MD5 of a copy are compared.
    Credentials come from the environment or fsspec's configuration.

    Args:
        input: An address that fsspec supports. For ``https://``, a directory ends with ``/`` and is
            a page of links.
        exif: Apply the EXIF orientation.
        max_pixels: Refuse larger images.
        recursive: Include the subdirectories of a directory.
        cache_mb: Limit of the objects that are fetched ahead, in MB of disk.

    Raises:
        ConfigError: An argument is invalid, or fsspec does not support the address. Whether the
            address can be listed is checked by ``check()``.
    """

    def __init__(
        self,
        input: str,
        exif: bool = True,
        max_pixels: int = MAX_PIXELS,
        recursive: bool = True,
        cache_mb: int = 1024,
    ) -> None:
        self.input = check_options(input, max_pixels)
        check_flag("recursive", recursive)
        check_whole("cache_mb", cache_mb, 0)
        self.exif, self.max_pixels, self.recursive = exif, max_pixels, recursive
        self._cache_bytes = cache_mb * 1_000_000
        self._shown = redacted_text(self.input)
        found = _SCHEME.match(self.input)
        self._scheme = found[1].lower() if found else ""
        if not self._scheme or "::" in self.input or self._scheme in _LOCAL:
            raise ConfigError(
                f"input: '{self._shown}' is not an address such as s3://bucket/images/; for files "
                "on this machine, set input to their path"
            )
        from fsspec import available_protocols

        if self._scheme not in available_protocols():
            raise ConfigError(f"input: {self._scheme}:// is not supported")
        self._fetcher: Fetcher | None = None
        self._found: list[tuple[str, RemoteObject]] | None = None
        self._skipped: list[Skipped] = []
        self._is_fresh = False  # the listing is that of check(), and was not used yet

    def check(self) -> None:
        """Check that the address can be accessed.

        Raises:
            ConfigError: It does not exist, there is no permission, or a package is missing.
        """
        self._list()
        self._is_fresh = True

    def __iter__(self) -> Iterator[RemoteAsset]:
        """List the address and return its images as assets.

        Raises:
            ConfigError: As ``check()``.
        """
        found = self._found if self._is_fresh else None
        self._is_fresh = False
        return self._assets(self._list() if found is None else found)

    def __len__(self) -> int:
        """Return how many images the last listing found."""
        return len(self._list() if self._found is None else self._found)

    def skipped(self) -> list[Skipped]:
        """Return what the last listing skipped, and why."""
        if self._found is None:
            self._list()
        return self._skipped

    def origins(self) -> list[Origin]:
        """Return what distinguishes this input from any other."""
        is_http = self._scheme in ("http", "https")  # there, the slash says that it is a directory
        return [Origin(self._shown if is_http else self._shown.rstrip("/"))]

    def _assets(self, found: list[tuple[str, RemoteObject]]) -> Iterator[RemoteAsset]:
        assert self._fetcher is not None
        place = Path(self._shown)
        for asset_id, content in found:
            asset = RemoteAsset(
                asset_id, place / asset_id, exif=self.exif, max_pixels=self.max_pixels
            )
            asset.content, asset.fetcher = content, self._fetcher
            yield asset

    def _list(self) -> list[tuple[str, RemoteObject]]:
        from fsspec.core import url_to_fs

        try:
            system, path = url_to_fs(self.input)
            system.invalidate_cache()
            root, infos = self._infos(system, str(path))
        except ImportError as exc:
            raise ConfigError(f"input: {self._scheme}:// needs a package: {exc}") from exc
        except Exception as exc:  # each package has its own types
            raise ConfigError(f"input: cannot list '{self._shown}': {reason(exc)}") from exc
        is_single = infos.keys() == {root}
        listing, objects = Listing(), [_object(name, info) for name, info in infos.items()]
        for number, each in enumerate(objects):
            listing.add(self._id(each.name, root), None, (number, 0), by_name=not is_single)
        members = listing.members(natural_order=True)
        self._skipped = listing.skipped()
        self._fetcher = self._fetcher or Fetcher(
            self.input, self._cache_bytes, self.max_pixels, system
        )
        self._found = [(member.id, objects[member.offset]) for member in members]
        return self._found

    def _infos(self, system: Any, path: str) -> tuple[str, dict[str, Any]]:
        """Return the root of the ids, and what is known of each object, by name."""
        is_http = self._scheme in ("http", "https")
        magic = re.search(r"[*\[]" if is_http else r"[*?\[]", path)
        if magic and not (not is_http and system.exists(path)):
            root = path[: path.rfind("/", 0, magic.start()) + 1]
            infos = system.glob(path, detail=True)
            files = {name: info for name, info in infos.items() if info["type"] != "directory"}
            return root, files
        if is_http and not path.endswith("/"):
            return path, {path: system.info(path)}
        if not is_http:
            info = system.info(path)
            if info["type"] != "directory":
                return path, {path: info}
        depth = None if self.recursive else 1
        return path.rstrip("/") + "/", system.find(path, maxdepth=depth, detail=True)

    def _id(self, name: str, root: str) -> str:
        if self._scheme in ("http", "https"):
            name, root = (urlsplit(each).path for each in (name, root))
        if name == root:
            name = name.rpartition("/")[2]
        elif name.startswith(root):
            name = name[len(root) :]
        if self._scheme in ("http", "https"):
            name = unquote(name)
        return name.replace("\0", "\\0") or "object"


def _object(name: str, info: dict[str, Any]) -> RemoteObject:
    size = info.get("size")
    is_size = isinstance(size, int) and size >= 0
    md5 = info.get("md5Hash") or info.get("Content-MD5")
    return RemoteObject(
        name, size if is_size else None, _mtime_ns(info), md5 if isinstance(md5, str) else None
    )


def _mtime_ns(info: dict[str, Any]) -> int | None:
    """Return the modification time, which stores name and write differently."""
    for key in _MODIFIED:
        given = info.get(key)
        try:
            if isinstance(given, str):
                given = parsedate_to_datetime(given) if "," in given else _iso(given)
            if isinstance(given, datetime):
                given = given.timestamp()
        except ValueError:
            continue
        if isinstance(given, (int, float)) and given > 0:
            return int(given * 1e6) * 1000
    return None


def _iso(text: str) -> datetime:
    time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)
