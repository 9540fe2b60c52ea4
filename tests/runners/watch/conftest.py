from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runners.watch.files import directories, transfer
from runners.watch.inbox.inbox import Inbox
from runners.watch.inbox.versions import Arrival


class Clock:
    """A monotonic clock that a test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def touch(root: Path) -> Callable[..., Path]:
    """Give a folder a new time: the clock of the kernel is too coarse for tests this quick."""
    times = itertools.count(10**18, 10**9)

    def new_time(folder: Path = root) -> Path:
        os.utime(folder, ns=(0, next(times)))
        return folder

    return new_time


@pytest.fixture
def put(root: Path, touch: Callable[..., Path]) -> Callable[..., Path]:
    """Write a file as a person does: its folder changes too."""

    def write(name: str | bytes, content: bytes = b"image", mtime_s: float | None = None) -> Path:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if mtime_s is not None:
            os.utime(path, (mtime_s, mtime_s))
        for folder in (path.parent, *path.parent.parents):
            touch(folder)
            if folder == root:
                break
        return path

    return write


@pytest.fixture
def settled(clock: Clock) -> Callable[[Inbox], list[Arrival]]:
    """Scan, wait until the files have settled, and scan again."""

    def scan(inbox: Inbox, deep: bool = False) -> list[Arrival]:
        early = inbox.scan(deep)
        clock.now += 5.0
        return early + inbox.scan(deep)

    return scan


@pytest.fixture
def file_system_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Refuse to rename out of a folder and into it, as if it were another file system."""
    real = directories.rename_new

    def mount(path: str) -> None:
        def rename_new(folder: int, name: str, other: int, new: str) -> None:
            ends = [str(Path(f"/proc/self/fd/{number}").readlink()) for number in (folder, other)]
            if ends[0].startswith(path) != ends[1].startswith(path):
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            real(folder, name, other, new)

        monkeypatch.setattr(transfer, "rename_new", rename_new)

    return mount
