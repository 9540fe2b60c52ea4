"""Reads a table of images in Parquet."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.sources.tables.table import PATH, Table, check_names
from pipeline.system.os_errors import describe_os_error

_ROWS = 1 << 16  # read at once


def read_parquet(path: Path, name: str) -> Table:
    """Return the rows of a table; values keep their types: text, numbers, booleans, null.

    Args:
        path: The file.
        name: Names the table in errors.

    Raises:
        ConfigError: ``pyarrow`` is not installed, or the table cannot be read, has no column
            ``path`` of text, an empty path, a column without a name, several columns of one name,
            a column of another type, or a value that is not finite.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as exc:
        raise ConfigError(
            f"input: the table {name} needs the extra parquet: install it with "
            "`uv sync --extra parquet` or `pip install 'd2run[parquet]'`"
        ) from exc
    try:
        # not by its path, which pyarrow would have to be able to encode
        with path.open("rb") as opened, parquet.ParquetFile(opened) as file:
            check_names(file.schema_arrow.names, name)
            for column in file.schema_arrow:
                _check_type(column, name)
            return _read(file, name)
    except OSError as exc:
        # pyarrow raises it without a number for a file that is no table
        reason = describe_os_error(exc) if exc.errno else _first_line(exc)
        raise ConfigError(f"input: cannot read the table {name}: {reason}") from exc
    except arrow.ArrowException as exc:
        raise ConfigError(f"input: cannot read the table {name}: {_first_line(exc)}") from exc


def _read(file: Any, name: str) -> Table:
    table = Table(tuple(each for each in file.schema_arrow.names if each != PATH))
    for batch in file.iter_batches(_ROWS):
        columns = [batch.column(each).to_pylist() for each in table.names]
        for path, *values in zip(batch.column(PATH).to_pylist(), *columns, strict=True):
            row = len(table.paths) + 1
            if not path or not path.strip():
                raise ConfigError(f"input: the table {name}: the path in row {row} is empty")
            for column, value in zip(table.names, values, strict=True):
                if isinstance(value, float) and not math.isfinite(value):
                    raise ConfigError(
                        f"input: the table {name}: '{column}' is {value} in row {row}, which the "
                        "records cannot hold: write a null instead"
                    )
            table.add(path, values)
    return table


def _check_type(column: Any, name: str) -> None:
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    is_text = types.is_string(kind) or types.is_large_string(kind)
    if not column.name:
        raise ConfigError(f"input: the table {name} has a column without a name: give it one")
    if column.name == PATH and not is_text:
        raise ConfigError(f"input: the table {name}: the column 'path' is {kind}, not text")
    is_number = types.is_integer(kind) or types.is_floating(kind)
    if not (is_text or is_number or types.is_boolean(kind) or types.is_null(kind)):
        raise ConfigError(
            f"input: the table {name}: the column '{column.name}' is {kind}, not text, a number or "
            "a boolean: convert it, for example to text, or drop it"
        )


def _first_line(exc: Exception) -> str:
    return str(exc).partition("\n")[0].rstrip(".") or type(exc).__name__
