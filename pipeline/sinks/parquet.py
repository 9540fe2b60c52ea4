"""An aggregate that writes tables as Parquet, derived from ``predictions.jsonl`` line by line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.encoding import read_records
from pipeline.records import Categories
from pipeline.sinks.tables import Kind, read_schema
from pipeline.system.descriptors import names_in, remove
from pipeline.system.files import TEMPORARY, replaced, sync_folder
from pipeline.validation import check_installed, check_number, check_whole

if TYPE_CHECKING:
    from typing import BinaryIO

_ROWS_PER_GROUP = 10_000  # of a file, in memory at a time
_SUFFIX = ".parquet"


class ParquetTables:
    """Writes ``parquet/``, one row per instance, and ``frames.parquet``, one row per frame.

    ``parquet/`` has files ``part-00000.parquet`` and so on, each with at most ``rows_per_file``
    rows. A file is complete from the moment it has its name, so a watched run can be read while it
    goes on; while the files are replaced, a reader may see some of the earlier result. The
    columns are those of ``instances.csv``, with types. The lines are streamed twice, so memory
    does not grow with their number. Equal lines give byte-identical files, with the same version
    of pyarrow.

    Args:
        directory: The run directory, where the files are written.
        min_score: Write only instances with at least this score, 0 to 1.
        rows_per_file: Largest number of instances in a file.

    Raises:
        ConfigError: An option has an invalid value.
    """

    is_aggregate: Literal[True] = True
    outputs = "parquet/", "frames.parquet"
    needs_pixels = False

    def __init__(
        self, directory: str | Path, min_score: float = 0.0, rows_per_file: int = 1_000_000
    ) -> None:
        check_number("min_score", min_score, 0, 1)
        check_whole("rows_per_file", rows_per_file, 1)
        self.directory = Path(directory)
        self.min_score = min_score
        self.rows_per_file = rows_per_file

    def check(self, categories: Categories) -> None:
        """Raise ConfigError if pyarrow is not installed."""
        check_installed("pyarrow", extra="parquet")

    def build(self, journal: Path, categories: Categories) -> None:
        """Read ``journal`` and replace the files, each atomically.

        Raises:
            OutputError: A line is incomplete.
        """
        schema = read_schema(read_records(journal), self.min_score)
        parts = self.directory / "parquet"
        rows = chain.from_iterable(map(schema.instance_rows, read_records(journal)))
        written = set[str]()
        for number in count():
            first = list(islice(rows, 1))
            if not first and number:
                break  # the first file is written without rows too: it has the columns
            name = f"part-{number:05}{_SUFFIX}"
            with replaced(parts / name) as file:
                rest = islice(rows, self.rows_per_file - 1)
                _write(file, schema.instances, chain(first, rest))
            written.add(name)
        for name in names_in(parts):  # of a longer table, or of a run that was killed
            if name.endswith((_SUFFIX, TEMPORARY)) and name not in written:
                remove(parts / name)
        sync_folder(parts)
        with replaced(self.directory / "frames.parquet") as file:
            _write(file, schema.frames, map(schema.frame_row, read_records(journal)))


def _write(file: BinaryIO, columns: Mapping[str, Kind], rows: Iterable[list[Any]]) -> None:
    """Write a table, a group of rows at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    point = pa.struct({"x": pa.float32(), "y": pa.float32(), "score": pa.float32()})
    types: dict[Kind, Any] = {
        "bool": pa.bool_(),
        "int": pa.int64(),
        "float": pa.float64(),
        "float32": pa.float32(),
        "text": pa.string(),
        "keypoints": pa.list_(point),
    }
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for group in _groups(rows):
            cells = zip(*group, strict=True)
            arrays = [
                pa.array(list(map(_points, values)) if kind == "keypoints" else values, types[kind])
                for values, kind in zip(cells, columns.values(), strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _groups(rows: Iterable[list[Any]]) -> Iterator[list[list[Any]]]:
    rows = iter(rows)
    while group := list(islice(rows, _ROWS_PER_GROUP)):
        yield group


def _points(keypoints: list[list[float | None]] | None) -> list[dict[str, float | None]] | None:
    if keypoints is None:
        return None
    return [dict(zip(("x", "y", "score"), point, strict=True)) for point in keypoints]
