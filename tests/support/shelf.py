"""An object store in a directory: ``shelf://bucket/key``. Shared by processes, and it can fail.

As in a store, an object appears as a whole, and there are no empty folders. ``$SHELF`` is the
directory.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem


class Shelf(LocalFileSystem):
    """The file system; ``fault`` is called with each request, ``put checkpoint.json``."""

    protocol = "shelf"
    fault: ClassVar[Callable[[str], object] | None] = None

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if str(path).startswith("shelf://"):
            path = f"{os.environ['SHELF']}/{str(path)[8:]}"
        return super()._strip_protocol(path)

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        _request(f"put {rpath}")
        _place(rpath, Path(lpath).read_bytes())

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        _request(f"put {path}")
        _place(path, value)

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        _request(f"get {rpath}")
        shutil.copyfile(rpath, lpath)

    def cat_file(self, path: str, **options: Any) -> bytes:
        _request(f"get {path}")
        return Path(path).read_bytes()

    def rm_file(self, path: str) -> None:
        _request(f"remove {path}")
        Path(path).unlink()
        with suppress(OSError):
            for folder in Path(path).relative_to(root := Path(os.environ["SHELF"])).parents:
                (root / folder).rmdir() if folder.name else None


def _request(what: str) -> None:
    if Shelf.fault is not None:
        Shelf.fault(what)


def _place(path: str, data: bytes) -> None:
    part = Path(os.environ["SHELF"]) / f".{uuid.uuid4().hex}"
    part.write_bytes(data)
    while True:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another thread has removed the folder, as empty
            part.replace(path)
            return


def register() -> None:
    """Make the protocol known to fsspec."""
    fsspec.register_implementation("shelf", "shelf.Shelf", clobber=True)


def set_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder, with an empty store and a home of its own."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SHELF", str(folder / "shelf"))
    monkeypatch.setenv("D2RUN_HOME", str(folder / "home"))
    monkeypatch.setattr(Shelf, "fault", None)
    register()
    (folder / "shelf").mkdir()


def objects(bucket: Path) -> dict[str, bytes]:
    """Return the content of all objects below a directory, by name."""
    found = sorted(path for path in bucket.rglob("*") if path.is_file())
    return {path.relative_to(bucket).as_posix(): path.read_bytes() for path in found}
