"""Makes asset ids of the names that clients give their images; they are never used as paths."""

from __future__ import annotations

import re

DEFAULT = "image"
_MAX_CHARACTERS = 200


def asset_name(sent: bytes) -> str:
    """Return the name of an image: relative, printable, in UTF-8, of at most 200 characters.

    Args:
        sent: The file name as the client sent it; may be empty, or hold anything.
    """
    text = sent.decode("utf-8", errors="replace")
    text = "".join(char if char.isprintable() else "_" for char in text)
    parts = [part for part in re.split(r"[/\\]", text) if part.strip(" .")]
    return "/".join(parts)[-_MAX_CHARACTERS:].strip("/") or DEFAULT


def distinct(name: str, others: set[str]) -> str:
    """Return a name that is not among the others: ``a.jpg``, ``a~2.jpg``, ..., and add it."""
    stem, dot, suffix = name.rpartition(".") if "." in name[1:] else (name, "", "")
    number, result = 1, name
    while result in others:
        number += 1
        result = f"{stem}~{number}{dot}{suffix}"
    others.add(result)
    return result
