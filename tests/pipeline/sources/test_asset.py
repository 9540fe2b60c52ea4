"""One image file: read once, remembered by its digest alone, and every fault of a disk in words."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import socket
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.errors import DecodeError
from pipeline.protocols import Asset
from pipeline.sources import ImageAsset
from pipeline.sources.decode.reading import Reading, read_image

PICTURE = np.full((3, 4, 3), (10, 20, 30), np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.png"
    assert cv2.imwrite(str(path), PICTURE)
    return path


def decode(asset: ImageAsset) -> None:
    list(asset.frames())


def test_it_is_an_asset(path: Path) -> None:
    asset = ImageAsset("a/x.png", path)
    assert isinstance(asset, Asset)
    assert asset.is_still
    (frame,) = asset.frames()
    assert (frame.asset_id, frame.index, frame.time_s) == ("a/x.png", 0, None)
    np.testing.assert_array_equal(frame.image, PICTURE)


def test_options_reach_the_decoder(path: Path) -> None:
    with pytest.raises(DecodeError, match="over the limit") as caught:
        decode(ImageAsset("x", path, max_pixels=11))
    assert caught.value.asset_id == "x"


def test_fingerprint_is_that_of_the_bytes_decoded(path: Path) -> None:
    data, written = path.read_bytes(), path.stat().st_mtime_ns
    asset = ImageAsset("x", path)
    decode(asset)
    path.unlink()  # so it cannot have been read again
    assert asset.fingerprint() == hashlib.sha256(data).hexdigest()
    assert asset.size_bytes == len(data)
    assert asset.mtime_ns == written


def test_fingerprint_without_decoding(path: Path) -> None:
    path.write_bytes(data := b"not an image, and of more than one block" * 60_000)
    asset = ImageAsset("x", path)
    assert (asset.size_bytes, asset.mtime_ns) == (None, None)
    assert asset.fingerprint() == hashlib.sha256(data).hexdigest()
    assert (asset.size_bytes, asset.mtime_ns) == (len(data), path.stat().st_mtime_ns)


def test_fingerprint_of_a_file_that_changed_before_it_was_decoded(path: Path) -> None:
    asset = ImageAsset("x", path)
    before = asset.fingerprint()
    assert cv2.imwrite(str(path), PICTURE[:2])
    decode(asset)
    assert asset.fingerprint() != before


def test_a_broken_image_still_has_size_and_fingerprint(path: Path) -> None:
    path.write_bytes(b"broken")
    asset = ImageAsset("x", path)
    with pytest.raises(DecodeError):
        decode(asset)
    assert (asset.size_bytes, asset.mtime_ns) == (6, path.stat().st_mtime_ns)
    path.unlink()
    assert asset.fingerprint() == hashlib.sha256(b"broken").hexdigest()


def test_another_reader_can_take_its_place(path: Path) -> None:
    def read(path: Path, *, exif: bool, max_pixels: int) -> Reading:
        assert (exif, max_pixels) == (False, 99)
        return Reading(PICTURE[:1], 5, 6, "7")

    asset = ImageAsset("x", path, exif=False, max_pixels=99)
    asset.reader = read
    (frame,) = asset.frames()
    assert frame.size == (1, 4)
    assert (asset.size_bytes, asset.mtime_ns, asset.fingerprint()) == (5, 6, "7")


def test_what_was_known_stays_where_nothing_was_read(path: Path) -> None:
    asset = ImageAsset("x", path)
    before = asset.fingerprint()
    path.unlink()
    with pytest.raises(DecodeError, match="no such file"):
        decode(asset)
    assert asset.fingerprint() == before


def test_neither_bytes_nor_pixels_are_kept(path: Path) -> None:
    frames = ImageAsset("x", path).frames()
    frame = next(frames)  # the generator is still alive, as in the engine
    assert frames.gi_frame.f_locals.keys() <= {"self"}  # type: ignore[attr-defined]
    assert not any(isinstance(thing, bytes) for thing in gc.get_referents(frames))
    assert frame.size == (3, 4)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # such names may have 108 bytes


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda path: None, "^no such file$", id="missing"),
        pytest.param(lambda path: path.symlink_to("gone"), "^no such file$", id="dangling"),
        pytest.param(link_to_itself, "^too many levels of symbolic links$", id="link-loop"),
        pytest.param(Path.mkdir, "^is a directory, not an image$", id="folder"),
        pytest.param(fifo, "^not a regular file$", id="fifo"),
        pytest.param(bound_socket, "^not a regular file$", id="socket"),
        pytest.param(lambda path: path.symlink_to("/dev/null"), "^not a regular", id="device"),
        pytest.param(Path.touch, "^empty file$", id="empty"),
    ],
)
def test_what_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make(path := tmp_path / "x.jpg")
    asset = ImageAsset("a/x.jpg", path)
    if "empty" not in message:
        monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))
        with pytest.raises(DecodeError, match=message):
            asset.fingerprint()
    with pytest.raises(DecodeError, match=message) as caught:
        decode(asset)
    assert (caught.value.asset_id, caught.value.step) == ("a/x.jpg", "decode")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("a" * 300, "^file name too long$", id="too-long"),
        pytest.param("a\0b", "null", id="nul"),
        pytest.param("\ud800", "surrogates not allowed", id="lone-surrogate"),
    ],
)
def test_names_that_no_file_can_have(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode(ImageAsset("x", tmp_path / name))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        pytest.param(errno.EACCES, "^no permission$", id="mode-000"),
        pytest.param(errno.EIO, "^input/output error$", id="disk"),
        pytest.param(errno.EMFILE, "^too many open files$", id="descriptors"),
        pytest.param(errno.ENOENT, "^no such file$", id="vanished"),
    ],
)
def test_faults_when_opening(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    def fails(*_: Any) -> int:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(DecodeError, match=message) as caught:
        decode(ImageAsset("x", path, reader=partial(read_image, sleep=lambda _: None)))
    assert caught.value.asset_id == "x"


def test_a_fifo_put_in_its_place_after_the_look(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = path.stat()
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(Path, "stat", lambda self, **_: status)
    with pytest.raises(DecodeError, match="not a regular file"):  # and does not wait for a writer
        decode(ImageAsset("x", path))


def test_a_film_with_an_images_name_is_not_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.sources.decode.reading._HEADERS", 0)
    path.write_bytes(bytes(1601))
    with pytest.raises(DecodeError, match=r"is too large for an image of at most 0\.0001 mega"):
        decode(ImageAsset("x", path, max_pixels=100))
    assert len(ImageAsset("x", path, max_pixels=100).fingerprint()) == 64
