"""Files that appear whole or not at all, and the names that outputs get."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import get_ident
from typing import Any, BinaryIO

from pipeline.errors import OutputError

_MAX_NAME_BYTES = 255  # NAME_MAX of every common Linux file system
_TEMPORARY = ".part"

# what a run writes into its output, and removes from it to begin anew
RESULTS = (
    "predictions.jsonl", "coco.json", "coco_results.json", "panoptic.json", "inputs.jsonl",
    "failures.jsonl", "skipped.jsonl",
)  # fmt: skip
RESULT_FOLDERS = ("overlay", "sem_seg", "panoptic")


def expanded(path: str) -> Path:
    """Return a path absolute, its ``~`` as a shell expands it: left where there is no such user."""
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 - that of Path raises


@contextmanager
def replaced(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary sibling of ``path`` and rename it into place when the block ends.

    An error in the block leaves ``path`` as it was and no temporary file behind. Unless it is
    ``durable``, the content need not outlive a power cut: the disk is not waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    # the process's number comes last: the store looks there whether the writer is still alive
    temporary = path.with_name(f".{digest}-{get_ident()}.{os.getpid()}{_TEMPORARY}")
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


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed process has left of ``replaced`` in a folder that is one's own."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes | str, *, durable: bool = True) -> None:
    """Write ``path`` so that a reader sees the old content or the new, never a part."""
    with replaced(path, durable=durable) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def sync_folder(path: str | Path) -> None:
    """Make the names in a folder durable: what was created, renamed or removed there."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # a file system on which folders cannot be synced
            raise
    finally:
        os.close(descriptor)


@dataclass
class OutputFolder:
    """A folder of whole files whose names come from inputs: nothing is written outside it.

    A symbolic link below ``root`` is never followed: it would lead out of the output. What is
    written is on the disk when ``write`` returns; its name is so after ``sync``.

    Attributes:
        root: May be, or lie behind, a link itself: that is the user's own choice.
    """

    root: Path
    _touched: set[str] = field(default_factory=set, repr=False)
    _entered: set[str] = field(default_factory=set, repr=False)

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write ``<root>/<name>`` so that a reader sees the old content or the new.

        Raises:
            OutputError: A folder on the way is a symbolic link.
        """
        with self._folder_of(name, make=True) as (folder, base):
            digest = hashlib.sha256(os.fsencode(base)).hexdigest()[:16]
            # of the name alone: what a killed run has left is written over by the next
            temporary = f".{digest}{_TEMPORARY}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with open(os.open(temporary, flags, 0o666, dir_fd=folder), "wb") as file:  # noqa: PTH123
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, base, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException as exc:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                if isinstance(exc, OSError):
                    exc.filename = str(self.root / name)  # a person knows this one
                raise

    def remove(self, name: str) -> None:
        """Remove ``<root>/<name>``, a file or a folder of files, if it is there."""
        with suppress(FileNotFoundError, NotADirectoryError):
            with self._folder_of(name, make=False) as (folder, base):
                if not stat.S_ISDIR(os.stat(base, dir_fd=folder, follow_symlinks=False).st_mode):
                    os.unlink(base, dir_fd=folder)
                    return
            for inner in os.listdir(self.root / name):  # noqa: PTH208 - names of any bytes
                self.remove(f"{name}/{inner}")
            (self.root / name).rmdir()

    def remove_empty(self, name: str) -> None:
        """Remove the folder ``<root>/<name>``, unless it holds something or is not there."""
        with suppress(OSError), self._folder_of(name, make=False) as (folder, base):
            os.rmdir(base, dir_fd=folder)

    def sync(self) -> None:
        """Make the names of all files written or removed until now durable."""
        for path in sorted(self._touched):
            with suppress(FileNotFoundError):  # removed since
                sync_folder(path)
        self._touched.clear()  # not before: what could not be synced is still to be

    @contextmanager
    def _folder_of(self, name: str, *, make: bool) -> Iterator[tuple[int, str]]:
        """Open the folder that a name is in, step by step, and give the name's last part."""
        *parents, base = name.split("/")
        if make and not self.root.is_dir():
            self.root.mkdir(parents=True, exist_ok=True)
            self._touched.add(str(self.root.parent))
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        path, folder = str(self.root), os.open(self.root, flags)
        try:
            for part in parents:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=folder)
                        self._touched.add(path)
                    if f"{path}/{part}" not in self._entered:  # made by a run that was killed?
                        self._entered.add(f"{path}/{part}")
                        self._touched.add(path)
                path = f"{path}/{part}"
                try:
                    inner = os.open(part, flags | os.O_NOFOLLOW, dir_fd=folder)
                except NotADirectoryError as exc:
                    if not Path(path).is_symlink():
                        raise
                    raise OutputError(
                        f"'{path}' is a symbolic link, which is not followed; remove it, or choose "
                        "another output"
                    ) from exc
                os.close(folder)
                folder = inner
            self._touched.add(path)
            yield folder, base
        finally:
            os.close(folder)


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


def asset_keys(asset_id: str, key: str = "asset") -> dict[str, str]:
    """Return an asset's keys in a JSON record: ``asset``, or another ``key``.

    A name that is not UTF-8 is escaped under ``asset``, and its bytes are under ``asset_b64``.
    """
    raw = os.fsencode(asset_id)
    shown = raw.decode(errors="backslashreplace")
    if shown == asset_id:
        return {key: asset_id}
    return {key: shown, f"{key}_b64": base64.b64encode(raw).decode("ascii")}


def asset_id_of(record: Mapping[str, Any]) -> str:
    """Return the asset id that ``asset_keys`` put into a JSON record.

    Raises:
        KeyError: There is none.
        ValueError: It is not text, or its bytes are not Base64.
    """
    if "asset_b64" in record:
        return os.fsdecode(base64.b64decode(record["asset_b64"], validate=True))
    if not isinstance(record["asset"], str):
        raise ValueError("asset is not text")
    return record["asset"]


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
