"""Names and numbers in the files of other tools."""

from __future__ import annotations

import os
import re
from typing import Any
from xml.sax.saxutils import escape

from pipeline.system.files import asset_id_of

# what XML 1.0 cannot hold, not even as a character reference; line breaks would become spaces
_NOT_XML = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def image_name(record: dict[str, Any]) -> str:
    """Return the asset id of a line; for a frame of a video ``<asset id>/<frame>.jpg``.

    That is what the sinks with ``images=copy`` call the frame, below ``images/``.
    """
    asset_id = asset_id_of(record)
    return f"{asset_id}/{record['frame']:06d}.jpg" if is_frame(record) else asset_id


def is_frame(record: dict[str, Any]) -> bool:
    """Return whether a line is a frame of a video or a page, not a still image."""
    return record["time_s"] is not None or record["frame"] > 0


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
