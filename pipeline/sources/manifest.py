"""The source for a list of images: a text file, a table, or standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import ConfigError
from pipeline.protocols import Asset
from pipeline.sources.asset import Skipped, check_options, user_path
from pipeline.sources.decode.options import MAX_PIXELS, FrameOptions
from pipeline.sources.kinds import Kinds
from pipeline.sources.paths import UNRESOLVED, Origin, plain_path, real_path
from pipeline.sources.tables.csv_table import read_csv
from pipeline.sources.tables.parquet_table import read_parquet
from pipeline.sources.tables.table import Row, Table
from pipeline.system.os_errors import describe_os_error

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Manifest:
    """Lists the images in a list, in its order. Every entry is an asset, even if it is missing.

    Args:
        input: ``.csv`` or ``.parquet``: a table with a column ``path``; its other columns are kept
            with the results. ``-``: standard input, one path per line,
            or paths that end with NUL if there is one. Any other file: one path per line; empty
            lines and lines that begin with ``#`` are ignored (``./#1.jpg`` is a file). UTF-8;
            other bytes in names are kept as they are. A relative path is relative to the working
            directory or, if it does not exist there, to the list's directory.
        exif: Apply the EXIF orientation.
        max_pixels: Refuse larger images.
        kinds: How images and videos are read; replaces ``exif`` and ``max_pixels``. By default,
            every frame of a video is.

    Raises:
        ConfigError: An argument is invalid. Whether the list exists is checked by ``check()``.
    """

    def __init__(
        self,
        input: str,
        exif: bool = True,
        max_pixels: int = MAX_PIXELS,
        kinds: Kinds | None = None,
    ) -> None:
        self.input = check_options(input, max_pixels)
        self.kinds = kinds or Kinds(FrameOptions(exif=exif, max_pixels=max_pixels))
        self.exif, self.max_pixels = self.kinds.frames.exif, self.kinds.frames.max_pixels
        self._count: int | None = None  # without the entries, because there may be a million
        self._skipped: list[Skipped] = []
        self._cwd: str | None = None

    def check(self) -> None:
        """Check that the list can be read. Standard input is read once and kept in memory.

        Raises:
            ConfigError: It cannot be read, is UTF-16, or is a table that is not as ``read_csv`` or
                ``read_parquet`` want it.
        """
        self._table()

    def __iter__(self) -> Iterator[Asset]:
        """Read the list and return its assets.

        The id is the normalized path (``a/b`` for ``a//./b``). For an absolute path, or one that
        leads out of the working directory, it is the absolute path without its first ``/``. A path
        that occurs again, however it is spelled, is skipped. Another name of the same file, such
        as a link, is another asset.

        Raises:
            ConfigError: As ``check()``.
        """
        # reads now, not at the first asset, because list() asks for the length in between
        return self._assets(*self._paths())

    def __len__(self) -> int:
        """Return the number of images in the list when it was last read."""
        if self._count is None:
            self._paths()
        return self._count or 0

    def skipped(self) -> list[Skipped]:
        """Return the entries that were skipped when the list was last read, and why."""
        if self._count is None:
            self._paths()
        return self._skipped

    def origins(self) -> list[Origin]:
        """Return what distinguishes this input from any other."""
        if self._count is None:
            self._paths()
        if self.input == "-":
            return [Origin("-", cwd=self._cwd)]
        return [Origin(real_path(user_path(self.input)), cwd=self._cwd)]

    def _assets(self, paths: dict[str, str], table: Table) -> Iterator[Asset]:
        here = os.path.join(Path.cwd(), "")  # noqa: PTH118
        for i, (asset_id, path) in enumerate(paths.items()):
            whole = path if path.startswith("/") else here + path
            asset = self.kinds.asset(asset_id, whole)
            if table.names:
                asset.row = Row(table.names, table.rows[i])
            yield asset

    def _paths(self) -> tuple[dict[str, str], Table]:
        """Return the paths of the assets by id, and the table with one row per asset.

        Relative paths are relative to the working directory.
        """
        table = self._table()
        paths: dict[str, str] = {}
        rows: list[str] = []
        skipped: list[Skipped] = []
        ids: dict[str, str] = {}  # by plain path, relative if it is in the working directory
        self._cwd = None
        here = os.path.join(Path.cwd(), "")  # noqa: PTH118
        beside = os.path.join(user_path(self.input).absolute().parent, "")  # noqa: PTH118
        bases = {base: plain_path(base) for base in (here, beside)} | {"": ""}
        for i, entry in enumerate(table.paths):
            base = self._base(entry, here, beside)
            plain = plain_path(base + entry)
            key = plain.removeprefix(here)
            key = entry if key == entry else key  # one string, not two: there may be a million
            if key in ids:
                skipped.append(Skipped(ids[key], "listed twice"))
                continue
            asset_id = _id(plain, bases[base])
            asset_id = entry if asset_id == entry else asset_id
            while asset_id in paths:  # data/x.jpg and /data/x.jpg
                asset_id = f"_/{asset_id}"
            ids[key] = asset_id
            paths[asset_id] = entry if base == here else base + entry
            rows += table.rows[i : i + 1]
        self._count, self._skipped = len(paths), skipped
        return paths, Table(table.names, rows=rows)

    def _base(self, entry: str, here: str, beside: str) -> str:
        """Return the directory that an entry is relative to, ``""`` if it is absolute."""
        if entry.startswith("/"):
            return ""
        if self._cwd and self.input == "-":
            return here
        if os.path.lexists(here + entry):
            if self.input == "-" or here != beside:
                self._cwd = here.rstrip("/") or "/"
            return here
        return beside if os.path.lexists(beside + entry) else here

    def _table(self) -> Table:
        name = self.input.lower()
        if name.endswith(".parquet"):
            return read_parquet(user_path(self.input), self._name)
        data = self._read()
        if data.startswith(_UTF16_MARKS):
            raise ConfigError(f"input: the list {self._name} is UTF-16: save it as UTF-8")
        data = data.removeprefix(_UTF8_MARK)
        if name.endswith(".csv"):
            return read_csv(data, self._name)
        # decoded like file names, which are not UTF-8 everywhere
        text = os.fsdecode(data)
        if self.input == "-" and "\0" in text:
            return Table(paths=[entry for entry in text.split("\0") if entry])
        lines = (line.removesuffix("\r") for line in text.split("\n"))
        comment = "\0" if self.input == "-" else "#"  # a program's output has no comments
        return Table(
            paths=[line for line in lines if line.strip() and not line.startswith(comment)]
        )

    def _read(self) -> bytes:
        if self.input != "-":
            try:
                return user_path(self.input).read_bytes()
            except (OSError, ValueError) as exc:
                raise ConfigError(
                    f"input: cannot read the list {self._name}: {describe_os_error(exc)}"
                ) from exc
        if sys.stdin is None:
            raise ConfigError("input=-: standard input is closed")
        return _all_of(sys.stdin.buffer)

    @property
    def _name(self) -> str:
        return "on standard input" if self.input == "-" else f"'{user_path(self.input).absolute()}'"


def _id(plain: str, base: str) -> str:
    """Return the id of a path: without the directory that it is relative to, or without its ``/``.

    The id is safe as an output name: a ``..`` that remains becomes ``__``, and NUL is escaped.
    """
    inside = base and plain.startswith(base.rstrip("/") + "/")
    asset_id = plain[len(base.rstrip("/")) + 1 :] if inside else plain.lstrip("/")
    if plain == base or not asset_id:
        return "."
    if "\0" in asset_id:
        asset_id = asset_id.replace("\0", "\\0")
    if UNRESOLVED in plain:
        asset_id = "/".join("__" if part == ".." else part for part in asset_id.split("/"))
    return asset_id


@lru_cache(maxsize=1)  # for every job of a sweep, and every time the list is read
def _all_of(stream: BinaryIO) -> bytes:
    return stream.read()
