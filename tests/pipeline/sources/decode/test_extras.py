"""HEIC and JPEG XL, which extras read; AVIF, which Pillow reads."""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DecodeError
from pipeline.sources import Images
from pipeline.sources.decode.formats import extras
from pipeline.sources.decode.image import decode_image
from pipeline.sources.decode.workers import DecodeWorkers

ORIENTATION = 274
Write = Callable[..., bytes]


def heif(image: Image.Image, **options: Any) -> bytes:
    plugin = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    buffer = BytesIO()
    plugin.from_pillow(image).save(buffer, quality=90, **options)
    return buffer.getvalue()


def jxl(image: Image.Image, **options: Any) -> bytes:
    pytest.importorskip("pillow_jxl", reason="the extra jxl is not installed")
    buffer = BytesIO()
    image.save(buffer, "JXL", **options)
    return buffer.getvalue()


def avif(image: Image.Image, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "AVIF", quality=90, **options)
    return buffer.getvalue()


FORMATS = pytest.mark.parametrize("write", [heif, jxl, avif])


def photo(height: int = 96, width: int = 160) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 / width, y * 255 / height, 60 + x * y * 150 / (width * height)]
    return Image.fromarray(np.stack(channels, 2).astype(np.uint8))


def noise(height: int = 96, width: int = 160) -> Image.Image:
    """An image that does not compress, so that its data is long."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def bgr(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGB"))[:, :, ::-1].astype(int)


@FORMATS
def test_pixels(write: Write) -> None:
    found = decode_image(write(photo()))
    assert (found.dtype, found.flags.c_contiguous, found.flags.writeable) == (np.uint8, True, True)
    assert np.abs(found - bgr(photo())).mean() < 3


@FORMATS
@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_modes(write: Write, mode: str) -> None:
    image = photo().convert(mode)
    assert np.abs(decode_image(write(image)) - bgr(image)).mean() < 3


def test_high_bit_depth() -> None:
    values = np.arange(0, 40_000, 100, np.uint16).reshape(20, 20)
    found = decode_image(jxl(Image.fromarray(values), lossless=True))
    assert np.array_equal(found[:, :, 0], values >> 8)


@pytest.mark.parametrize("write", [heif, avif])
def test_orientation(write: Write) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    found = decode_image(write(photo(), exif=exif.tobytes()))
    assert np.abs(found - bgr(photo().transpose(Image.Transpose.ROTATE_270))).mean() < 3


@pytest.mark.parametrize("apply", [True, False])
def test_a_packed_jpeg_is_that_jpeg(tmp_path: Path, apply: bool) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    photo().save(tmp_path / "x.jpg", exif=exif)
    with Image.open(tmp_path / "x.jpg") as image:
        packed = jxl(image, lossless_jpeg=True)
    expected = decode_image((tmp_path / "x.jpg").read_bytes(), exif=apply)
    assert np.array_equal(decode_image(packed, exif=apply), expected)


@pytest.mark.parametrize("size", [(8, 8), (8, 16), (256, 256), (96, 160), (600, 800), (513, 9000)])
@pytest.mark.parametrize("container", [False, True])
def test_the_size_in_the_header_of_a_jpeg_xl(size: tuple[int, int], container: bool) -> None:
    data = jxl(Image.new("RGB", (size[1], size[0])), use_container=container, effort=1)
    assert extras.jxl_size(data) == (size[1], size[0])


@FORMATS
def test_too_large_is_refused_by_the_header(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "open_jxl", lambda data: pytest.fail("decoded"))
    data = write(photo())
    with pytest.raises(DecodeError, match=r"^image of 160x96 = 0\.01536 megapixels is over"):
        decode_image(data, max_pixels=15_000)


@FORMATS
@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
def test_truncated(write: Write, part: float) -> None:
    data = write(noise())
    with pytest.raises(DecodeError, match=r"^(truncated|broken|damaged)( or broken)? "):
        decode_image(data[: int(len(data) * part)])


@FORMATS
def test_zeros_inside(write: Write) -> None:
    data = bytearray(write(noise()))
    middle = len(data) // 2
    data[middle : middle + 1024] = bytes(1024)
    with pytest.raises(DecodeError, match=r"^damaged \w+ \(a part of its data is zeros\)"):
        decode_image(bytes(data))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(40), "heif"),
        (b"\xff\x0a" + bytes(40), "jxl"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "jxl"),
    ],
)
def test_without_the_extra(data: bytes, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DecodeError, match=r"^(truncated|broken)"):
        decode_image(data)
    monkeypatch.setattr(extras, "_is_installed", lambda package: False)
    with pytest.raises(DecodeError, match=rf"needs the extra {name}: .*uv sync --extra {name}`"):
        decode_image(data)


def test_listed_by_extension(tmp_path: Path) -> None:
    for name in ("a.heic", "b.HEIF", "c.jxl", "d.avif", "e.hif"):
        (tmp_path / name).touch()
    found = [asset.id for asset in Images(str(tmp_path))]
    assert found == ["a.heic", "b.HEIF", "c.jxl", "d.avif", "e.hif"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_in_a_worker_process(tmp_path: Path) -> None:
    with DecodeWorkers(1, memory_mb=512, timeout_s=60) as read:
        for write in (heif, jxl):
            path = tmp_path / write.__name__
            path.write_bytes(write(photo()))
            reading = read(path, exif=True, max_pixels=1_000_000)
            assert np.array_equal(reading.image, decode_image(path.read_bytes()))
            path.write_bytes(path.read_bytes()[:300])
            with pytest.raises(DecodeError, match=r"^(truncated|broken)"):
                read(path, exif=True, max_pixels=1_000_000)
