"""Reads a table of images in CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from io import BytesIO, TextIOWrapper

from pipeline.errors import ConfigError
from pipeline.sources.tables.table import PATH, Table, check_names

_NUL = "\ud800"


def read_csv(data: bytes, name: str) -> Table:
    """Return the rows of a table. Every value is a text, because CSV has no types.

    Args:
        data: The table in UTF-8; other bytes are kept as in file names.
        name: Names the table in errors.

    Raises:
        ConfigError: It is not well-formed, has no column ``path``, an empty path, a value in a
            column without a name, or several columns of one name.
    """
    rows = csv.reader(_lines(data), strict=True)
    try:
        header = [each.strip() for each in next(rows, [])]
        check_names(header, name)
        at = header.index(PATH)
        named = [i for i, each in enumerate(header) if each and i != at]
        unnamed = [i for i, each in enumerate(header) if not each]
        table = Table(tuple(header[i] for i in named))
        for row in rows:
            cells = row + [""] * (len(header) - len(row))
            if cells[at].strip():
                _check_row(cells, unnamed, len(header))
                values = (cells[i].replace(_NUL, "\0") for i in named)
                table.add(cells[at].replace(_NUL, "\0"), values)
            elif any(row):  # spreadsheets write lines of empty cells at the end
                raise csv.Error("the path is empty")
    except csv.Error as exc:
        raise ConfigError(
            f"input: the table {name} cannot be read at line {rows.line_num}: {exc}"
        ) from exc
    return table


def _check_row(cells: Sequence[str], unnamed: Sequence[int], width: int) -> None:
    if any(cells[width:]):
        raise csv.Error("it has more cells than the first line")
    for i in unnamed:
        if cells[i]:
            raise csv.Error(f"column {i + 1} has a value and no name in the first line")


def _lines(data: bytes) -> Iterator[str]:
    encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    for line in TextIOWrapper(BytesIO(data), encoding, errors, newline=""):
        # Python 3.10 refuses a table that contains a NUL; decoding never yields the replacement
        yield line.replace("\0", _NUL)
