"""An aggregate that writes tables as CSV, derived from ``predictions.jsonl`` line by line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal

from pipeline.encoding import read_records
from pipeline.records import Categories
from pipeline.sinks.tables import Kind, read_schema
from pipeline.system.files import replaced
from pipeline.validation import check_flag, check_number

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what makes a spreadsheet run a text


class CsvTables:
    """Writes ``instances.csv``, one row per instance, and ``frames.csv``, one row per frame.

    Both are UTF-8 with quoting as in RFC 4180 and always have the same first columns. Numbers are
    the shortest text that reads back to the same value; what is absent or not finite is empty.
    The lines are streamed twice, so memory does not grow with their number. Equal lines give
    byte-identical files.

    Args:
        directory: The run directory, where the files are written.
        min_score: Write only instances with at least this score, 0 to 1.
        masks: Write masks, as COCO's compressed RLE.
        spreadsheet: Write for Excel and the like: with a byte order mark, without masks, which
            can be longer than a cell, and with ``'`` before text that would be run as a formula.

    Raises:
        ConfigError: An option has an invalid value.
    """

    is_aggregate: Literal[True] = True
    outputs = "instances.csv", "frames.csv"
    needs_pixels = False

    def __init__(
        self,
        directory: str | Path,
        min_score: float = 0.0,
        masks: bool = True,
        spreadsheet: bool = False,
    ) -> None:
        check_number("min_score", min_score, 0, 1)
        check_flag("masks", masks)
        check_flag("spreadsheet", spreadsheet)
        self.directory = Path(directory)
        self.min_score = min_score
        self.masks = masks and not spreadsheet
        self.spreadsheet = spreadsheet

    def build(self, journal: Path, categories: Categories) -> None:
        """Read ``journal`` and replace the files, each atomically.

        Raises:
            OutputError: A line is incomplete.
        """
        schema = read_schema(read_records(journal), self.min_score)
        with (
            self._table("instances.csv", schema.instances) as instances,
            self._table("frames.csv", schema.frames) as frames,
        ):
            for record in read_records(journal):
                instances.write(schema.instance_rows(record))
                frames.write([schema.frame_row(record)])

    @contextmanager
    def _table(self, name: str, columns: Mapping[str, Kind]) -> Iterator[_Table]:
        with replaced(self.directory / name) as file:
            text = TextIOWrapper(file, "utf-8-sig" if self.spreadsheet else "utf-8", newline="")
            yield _Table(text, columns, masks=self.masks, spreadsheet=self.spreadsheet)
            text.flush()
            text.detach()  # the file is closed by whoever opened it


class _Table:
    """Writes rows with the kept columns, and their header."""

    def __init__(
        self, file: TextIOWrapper, columns: Mapping[str, Kind], *, masks: bool, spreadsheet: bool
    ) -> None:
        names = [name for name in columns if masks or name != "mask"]
        self._kept = [i for i, name in enumerate(columns) if name in names]
        self._spreadsheet = spreadsheet
        self._writer = csv.writer(file)
        self._writer.writerow([self._cell(name) for name in names])

    def write(self, rows: Iterable[Sequence[Any]]) -> None:
        for row in rows:
            self._writer.writerow([self._cell(row[i]) for i in self._kept])

    def _cell(self, value: Any) -> Any:
        if isinstance(value, str):
            unsafe = self._spreadsheet and value.startswith(_FORMULA)
            return f"'{value}" if unsafe else value
        if isinstance(value, (bool, list)):
            return json.dumps(value)
        return value
