"""Names and numbers in the files of other tools."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from pipeline.encoding import read_records
from pipeline.system.files import asset_id_of

# what XML 1.0 cannot hold, not even as a character reference; line breaks would become spaces
_NOT_XML = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


class NamedLine(NamedTuple):
    """A line of ``predictions.jsonl``, and whether its image is a part of a file.

    Attributes:
        record: The line's object.
        is_frame: Whether it is a frame of a video or one of several pages, not a still image.
    """

    record: dict[str, Any]
    is_frame: bool

    @property
    def name(self) -> str:
        """The asset id; for a frame ``<asset id>/<frame>.jpg``.

        That is what the sinks with ``images=copy`` call the frame, below ``images/``.
        """
        asset_id = asset_id_of(self.record)
        return f"{asset_id}/{self.record['frame']:06d}.jpg" if self.is_frame else asset_id


def read_named(journal: Path, min_score: float = 0.0) -> Iterator[NamedLine]:
    """Yield the lines of a ``predictions.jsonl``; see ``pipeline.encoding.read_records``.

    Raises:
        OutputError: A line is incomplete.
    """
    for record, after in pairwise(chain(read_records(journal, min_score), (None,))):
        assert record is not None
        is_frame = record["time_s"] is not None or record["frame"] > 0
        if not is_frame and after is not None and after["frame"] > 0:
            is_frame = asset_id_of(after) == asset_id_of(record)  # the first of several pages
        yield NamedLine(record, is_frame)


def printable(name: str) -> str:
    r"""Return a name as valid Unicode; bytes that are not UTF-8 are escaped (``caf\xe9.jpg``)."""
    return os.fsencode(name).decode(errors="backslashreplace")


def xml_text(text: str) -> str:
    r"""Return a name for XML, in an element or between double quotes; ``\x07`` for a bell."""
    shown = _NOT_XML.sub(lambda found: ascii(found[0])[1:-1], printable(text))
    return escape(shown, {'"': "&quot;"})


def number(value: float) -> str:
    """Return a coordinate with at most 3 decimals, which is all that editors keep."""
    return f"{value:.3f}".rstrip("0").rstrip(".")
