"""``manifest.sha256``: the SHA-256 of every output of a run, in the format of ``sha256sum``."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import local
from typing import Any

from pipeline.errors import OutputError
from pipeline.system.descriptors import open_to_read, status_of
from pipeline.system.files import TEMPORARY, replaced

NAME = "manifest.sha256"
_WITH_TIMES = ("report.html", "report/")  # as run.json has, so they are not listed
_CHUNK = 1 << 18
_THREADS = min(8, os.cpu_count() or 1)  # hashing releases the GIL
_ESCAPES = ((b"\\", b"\\\\"), (b"\n", b"\\n"))  # as sha256sum writes and reads them
_buffers = local()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The digests of a run's outputs.

    Attributes:
        digests: SHA-256 in hexadecimal digits by name, relative to the run directory.
        sha256: SHA-256 of the file ``manifest.sha256``.
        n_bytes: Total size of the files that were read to write it.
    """

    digests: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""
    n_bytes: int = 0


def write_manifest(
    output: Path, names: Iterable[str], kept: Mapping[str, str], since_ns: int
) -> Manifest:
    """Write ``manifest.sha256``, sorted by the bytes of the names.

    Args:
        output: The run directory.
        names: The outputs in it, directories with a ``/``; those that are missing are skipped.
        kept: Digests of the previous manifest. They stay for files that were not written since,
            so that a file that another program changed in between does not match.
        since_ns: When this run started to write, in nanoseconds since 1970, as the file system
            says.

    Raises:
        OSError: A file cannot be read, or the manifest cannot be written.
        OutputError: A link is in the place of a file.
    """
    files = dict(list_files(output, names))
    todo = [
        name
        for name, status in files.items()
        if name not in kept or max(status.st_ctime_ns, status.st_mtime_ns) >= since_ns
    ]
    with ThreadPoolExecutor(_THREADS) as pool:  # a few chunks of memory per thread
        computed = dict(zip(todo, pool.map(partial(_digest, output), todo), strict=True))
    digests = {name: computed.get(name) or kept[name] for name in sorted(files, key=os.fsencode)}
    whole = hashlib.sha256()
    with replaced(output / NAME) as file:
        for name, digest in digests.items():
            line = _line(name, digest)
            whole.update(line)
            file.write(line)
    return Manifest(digests, whole.hexdigest(), sum(files[name].st_size for name in todo))


def listed_outputs(outputs: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the outputs that a manifest lists, of those that each sink owns."""
    return [name for names in outputs.values() for name in names if name not in _WITH_TIMES]


def read_manifest(output: Path) -> Manifest:
    """Read the manifest of a run; an empty one if there is none.

    Raises:
        OutputError: It is damaged.
    """
    try:
        with open_to_read(output / NAME) as file:
            content = file.read()
    except FileNotFoundError:
        return Manifest()
    digests = {}
    for number, line in enumerate(io.BytesIO(content), 1):
        escaped = line.startswith(b"\\")
        digest, _, name = line.removeprefix(b"\\").partition(b"  ")
        if len(digest) != 64 or not name.endswith(b"\n"):
            raise OutputError(f"'{output / NAME}': line {number} is damaged")
        name = name[:-1]
        digests[os.fsdecode(_unescaped(name) if escaped else name)] = digest.decode("ascii")
    return Manifest(digests, hashlib.sha256(content).hexdigest(), len(content))


def list_files(output: Path, names: Iterable[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the regular files among the outputs, each with its status; links are skipped."""
    for name in dict.fromkeys(names):
        if not name.endswith("/"):
            status = status_of(output / name)
            if status is not None and stat.S_ISREG(status.st_mode):
                yield name, status
            continue
        for directory, _, files in os.walk(output / name):
            inner = os.path.relpath(directory, output)
            for each in files:
                status = os.lstat(os.path.join(directory, each))  # noqa: PTH118
                if stat.S_ISREG(status.st_mode) and not _is_temporary(each):
                    yield f"{inner}/{each}", status


def compute_digests(output: Path, names: Iterable[str]) -> dict[str, str | None]:
    """Return the SHA-256 of files by name; ``None`` for files that are missing or unreadable."""
    names = list(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(partial(_digest_or_none, output), names)
        return dict(zip(names, found, strict=True))


def _digest(output: Path, name: str) -> str:
    digest = hashlib.sha256()
    buffer: Any = getattr(_buffers, "buffer", None)
    if buffer is None:
        buffer = _buffers.buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    with open_to_read(output / name) as file:
        while size := file.readinto(buffer):  # type: ignore[attr-defined]
            digest.update(view[:size])
    return digest.hexdigest()


def _digest_or_none(output: Path, name: str) -> str | None:
    try:
        return _digest(output, name)
    except (OSError, OutputError, ValueError):
        return None


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(TEMPORARY)


def _line(name: str, digest: str) -> bytes:
    raw = escaped = os.fsencode(name)
    for char, code in _ESCAPES:
        escaped = escaped.replace(char, code)
    return b"\\" * (raw != escaped) + digest.encode("ascii") + b"  " + escaped + b"\n"


def _unescaped(name: bytes) -> bytes:
    return b"\\".join(part.replace(b"\\n", b"\n") for part in name.split(b"\\\\"))
