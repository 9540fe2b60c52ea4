"""Reading a file: which faults are tried again, how often, and that it did not change meanwhile."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import pytest

from pipeline.errors import DecodeError
from pipeline.sources.decode.reading import read_bytes, read_image, read_version

READERS = [read_bytes, read_image, read_version]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.png"
    assert cv2.imwrite(str(path), np.full((3, 4, 3), 7, np.uint8))
    return path


class FaultyFile:
    """A file that calls ``before_reading`` first."""

    def __init__(self, file: BinaryIO, before_reading: Callable[[], object]) -> None:
        self._file, self._before_reading = file, before_reading

    def __enter__(self) -> FaultyFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self, size: int) -> bytes:
        self._before_reading()
        return self._file.read(size)


@pytest.fixture
def on_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Any]], None]:
    """Have each file that is opened do the next of these when it is read; an error is raised."""
    fdopen = os.fdopen

    def script(acts: list[Any]) -> None:
        def opened(descriptor: int, mode: str) -> FaultyFile:
            act = acts.pop(0) if acts else None

            def before_reading() -> None:
                nonlocal act
                now, act = act, None
                if isinstance(now, Exception):
                    raise now
                if now is not None:
                    now()

            return FaultyFile(fdopen(descriptor, mode), before_reading)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "fdopen", opened)

    return script


def fault(code: int) -> OSError:
    return OSError(code, os.strerror(code))


PASSING = [
    errno.EIO, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT,
    errno.ENOBUFS, errno.ENOMEM, errno.EHOSTDOWN, errno.EMFILE, errno.ENOTCONN,
]  # fmt: skip
LASTING = [errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP]


@pytest.mark.parametrize("code", PASSING, ids=errno.errorcode.get)
@pytest.mark.parametrize("read", READERS)
def test_a_fault_that_passes(read: Any, code: int, path: Path, on_read: Any) -> None:
    expected = read(path)
    pauses: list[float] = []
    on_read([fault(code), fault(code)])
    found = read(path, sleep=pauses.append)
    if read is read_image:
        found, expected = found.sha256, expected.sha256
    assert found == expected
    assert pauses == [0.1, 0.4]


@pytest.mark.parametrize("read", READERS)
def test_a_fault_that_does_not_pass(read: Any, path: Path, on_read: Any) -> None:
    pauses: list[float] = []
    on_read(acts := [fault(errno.EIO)] * 4)
    with pytest.raises(DecodeError, match=r"^input/output error$") as caught:
        read(path, sleep=pauses.append)
    assert (caught.value.attempts, pauses, len(acts)) == (3, [0.1, 0.4], 1)
    assert caught.value.version is None


@pytest.mark.parametrize("code", LASTING, ids=errno.errorcode.get)
@pytest.mark.parametrize("read", READERS)
def test_a_fault_that_a_person_must_mend(read: Any, code: int, path: Path, on_read: Any) -> None:
    on_read([fault(code)])
    with pytest.raises(DecodeError) as caught:
        read(path, sleep=lambda _: pytest.fail("tried again"))
    assert caught.value.attempts == 1


def test_a_fault_of_the_look_before_opening(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = [fault(errno.ESTALE), fault(errno.ESTALE)]
    stat = Path.stat

    def looks(self: Path, **options: Any) -> os.stat_result:
        if self == path and faults:
            raise faults.pop()
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", looks)
    assert read_bytes(path, sleep=lambda _: None)[0] == path.read_bytes()


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def touched(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


@pytest.mark.parametrize("change", [appended, cut, touched])
@pytest.mark.parametrize("read", READERS)
def test_a_file_that_changes_at_each_look(read: Any, change: Any, path: Path, on_read: Any) -> None:
    on_read([lambda: change(path)] * 3)
    with pytest.raises(DecodeError, match=r"^changed while it was read$") as caught:
        read(path, sleep=lambda _: None)
    assert caught.value.attempts == 3


@pytest.mark.parametrize("change", [appended, cut, touched])
def test_a_file_that_was_written_to_and_is_whole_at_the_next_look(
    change: Any, path: Path, on_read: Any
) -> None:
    on_read([lambda: change(path)])
    data, version = read_bytes(path, sleep=lambda _: None)
    status = path.stat()
    assert data == path.read_bytes()
    assert version == (status.st_size, status.st_mtime_ns, hashlib.sha256(data).hexdigest())


def test_a_file_that_grows_is_not_followed(path: Path, on_read: Any) -> None:
    on_read([lambda: os.truncate(path, 1 << 40)])  # sparse; to read it all would take all memory
    with pytest.raises(DecodeError, match=r"^file of 1099512 MB is too large"):
        read_bytes(path, sleep=lambda _: None)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("read", READERS)
def test_a_file_that_holds_more_than_it_says(read: Any) -> None:
    with pytest.raises(DecodeError, match="changed while it was read"):
        read(Path("/proc/self/status"), sleep=lambda _: None)


def test_what_is_no_image_has_a_version(path: Path) -> None:
    path.write_bytes(b"no image")
    with pytest.raises(DecodeError) as caught:
        read_image(path)
    assert caught.value.version == read_version(path)
    assert caught.value.attempts == 1
