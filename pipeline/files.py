"""Files that appear whole or not at all, and the names that outputs get."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_MAX_NAME_BYTES = 255  # NAME_MAX of every common Linux file system
_TEMPORARY = ".part"


@contextmanager
def replaced(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary sibling of ``path`` and rename it into place when the block ends.

    An error in the block leaves ``path`` as it was and no temporary file behind. Unless it is
    ``durable``, the content need not outlive a power cut: the disk is not waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    temporary = path.with_name(f".{digest}.{os.getpid()}{_TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes | str, *, durable: bool = True) -> None:
    """Write ``path`` so that a reader sees the old content or the new, never a part."""
    with replaced(path, durable=durable) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def output_name(asset_id: str, suffix: str, frame: int | None = None) -> str:
    """Return an output's path below its sink's folder, as unique as the asset id.

    The whole id is kept, extension included, so ``x.jpg`` and ``x.png`` never share a name; the
    result never leads out of the folder, and no part of it is longer than a file name may be.

    Args:
        asset_id: Path relative to the input, ``/`` separators.
        suffix: Appended to the id, such as ``.jpg``.
        frame: Position in an asset of several frames; each gets a file in a folder of the asset.
    """
    parts = [part for part in asset_id.split("/") if part not in ("", ".")]
    parts = [_harmless(part) for part in parts] or ["_"]
    if frame is None:
        parts[-1] += suffix
    else:
        parts.append(f"{frame:06d}{suffix}")
    return "/".join(_shortened(part, suffix) for part in parts)


def _harmless(part: str) -> str:
    """Turn ``..`` into ``__``, and what is really called ``__``, ``___`` ... into one more."""
    if part == "..":
        return "__"
    return f"{part}_" if len(part) > 1 and not part.strip("_") else part


def _shortened(name: str, suffix: str) -> str:
    raw = os.fsencode(name)
    if len(raw) <= _MAX_NAME_BYTES:
        return name
    mark = f"~{hashlib.sha256(raw).hexdigest()[:12]}{suffix}"
    kept = raw[: _MAX_NAME_BYTES - len(os.fsencode(mark))]
    # never cut a character in two: what does not decode at the end is left out
    return kept.decode(errors="ignore" if _is_utf8(raw) else "surrogateescape") + mark


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def asset_keys(asset_id: str) -> dict[str, str]:
    """Return an asset's keys in a JSON record.

    A name that is not UTF-8 is escaped under ``asset``, and its bytes stand under ``asset_b64``.
    """
    raw = os.fsencode(asset_id)
    shown = raw.decode(errors="backslashreplace")
    if shown == asset_id:
        return {"asset": asset_id}
    return {"asset": shown, "asset_b64": base64.b64encode(raw).decode("ascii")}


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
