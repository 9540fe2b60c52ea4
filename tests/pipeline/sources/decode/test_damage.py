"""Damaged files fail, whichever way they are decoded; sound ones with odd additions do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageDraw, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.errors import DecodeError
from pipeline.sources.decode.formats import tiff
from pipeline.sources.decode.image import decode_image
from pipeline.sources.decode.workers import DecodeWorkers

PHOTO = Image.fromarray(skimage.data.astronaut()[60:360, 60:420])
OTHER = Image.fromarray(skimage.data.coffee()[:300, :360])
EOI = b"\xff\xd9"
Damage = Callable[[bytes, int], bytes]


def encoded(image: Image.Image = PHOTO, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))[:, :, ::-1]


JPEGS = {
    "baseline": encoded(quality=85),
    "4:4:4": encoded(quality=95, subsampling=0, optimize=True),
    "progressive": encoded(quality=85, progressive=True),
    "restarts": encoded(quality=85, restart_marker_rows=2),
    "gray": encoded(PHOTO.convert("L"), quality=85),
    "cmyk": encoded(PHOTO.convert("CMYK"), quality=85),
    "mpo": encoded(kind="MPO", quality=85, save_all=True, append_images=[OTHER]),
}
TAIL = encoded(OTHER, quality=85)[-9000:]
DAMAGES: dict[str, Damage] = {
    "cut": lambda data, at: data[:at] + EOI,
    "hole": lambda data, at: data[:at] + data[at + 4096 :],
    "a page of zeros": lambda data, at: data[:at] + bytes(4096) + data[at + 4096 :],
    "0xff": lambda data, at: data[:at] + b"\xff" * 512 + data[at + 512 :],
    "tail of zeros": lambda data, at: data[:at] + bytes(len(data) - at) + EOI,
    "tail of another": lambda data, at: data[:at] + TAIL,
    "noise": lambda data, at: data[:at] + np.random.default_rng(at).bytes(512) + data[at + 512 :],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS)
def test_a_damaged_jpeg_fails(data: bytes, damage: Damage) -> None:
    end = data.find(EOI, data.find(b"\xff\xda"))
    for share in (0.3, 0.5, 0.7):
        with pytest.raises(DecodeError, match=r"^(damaged|truncated|broken) JPEG \("):
            decode_image(damage(data[: end + 2], int(end * share)))


@pytest.mark.parametrize("name", ["baseline", "4:4:4", "restarts", "gray"])
def test_a_sector_of_zeros_in_a_jpeg_is_found_wherever_it_is(name: str) -> None:
    data = JPEGS[name]
    scan = data.find(b"\xff\xda") + 14
    for at in range(scan, len(data) - 600, 1531):
        with pytest.raises(DecodeError, match=r"^damaged JPEG \(.*\): copy the file again"):
            decode_image(data[:at] + bytes(512) + data[at + 512 :])


def test_missing_scans_of_a_progressive_jpeg() -> None:
    data = JPEGS["progressive"]
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for at in scans[1:]:
        before = data.rfind(b"\xff\xc4", 0, at)  # with its Huffman table
        with pytest.raises(DecodeError, match="ends before its last scan"):
            decode_image(data[: before if before > scans[0] else at] + EOI)


@pytest.mark.parametrize(
    ("kind", "options", "places"),
    [
        ("PNG", {}, (0.3, 0.9)),
        ("PNG", {"tail": True}, (0.3, 0.97)),
        ("WEBP", {"quality": 80}, (0.3, 0.9)),
        ("WEBP", {"lossless": True}, (0.3, 0.9)),
        ("WEBP", {"quality": 80, "tail": True}, (0.3, 0.9)),
        ("AVIF", {"speed": 10}, (0.4, 0.7)),
        ("AVIF", {"speed": 10, "tail": True}, (0.4, 0.7)),
        ("JPEG2000", {}, (0.3, 0.9)),
        ("GIF", {}, (0.4, 0.7)),
        ("TIFF", {"compression": "tiff_lzw"}, (0.3, 0.7)),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, (0.3, 0.7)),
        ("TIFF", {"compression": "packbits"}, (0.3, 0.7)),
        ("TIFF", {"compression": "jpeg"}, (0.3, 0.7)),
        ("TIFF", {"compression": "zstd"}, (0.3, 0.7)),
        ("TIFF", {"compression": "lzma"}, (0.3, 0.7)),
    ],
)
def test_zeros_in_other_formats(
    kind: str, options: dict[str, Any], places: tuple[float, float]
) -> None:
    options = dict(options)
    tail = options.pop("tail", False)
    data = encoded(kind=kind, **options)
    for share in np.linspace(*places, 6):
        at = int(len(data) * share)
        size = len(data) - at if tail else 1024
        with pytest.raises(DecodeError, match=r"^(damaged|truncated|broken) \w+ \("):
            decode_image(data[:at] + bytes(size) + data[at + size :])


def test_a_broken_fax_is_not_made_up() -> None:
    data = encoded(PHOTO.convert("1"), "TIFF", compression="group4")
    middle = len(data) // 2
    with pytest.raises(DecodeError, match="libtiff cannot decode all of it"):
        decode_image(data[:middle] + b"\x5a\xa5" * 8 + data[middle + 16 :])
    decode_image(data)  # the next one is not blamed


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + (len(body) + 2).to_bytes(2, "big") + body


BASE = JPEGS["baseline"]
ADDITIONS = {
    "trailing text": BASE + b"made by a camera" * 99,
    "trailing zeros": BASE + bytes(70_000),
    "a second image": BASE + JPEGS["gray"],
    "zeros before the end": BASE[:-2] + bytes(30) + EOI,
    "fill bytes before the end": BASE[:-2] + b"\xff" * 30 + EOI,
    "maker's notes": BASE[:2] + segment(0xE1, b"Exif\0\0" + bytes(60_000)) + BASE[2:],
    "markers in a comment": BASE[:2] + segment(0xFE, b"\xff\xda\xff\xd9\xff\xc4" * 99) + BASE[2:],
    "bytes between segments": BASE[:2] + segment(0xE5, b"x") + b"\0\0\0" + BASE[2:],
    "broken color profile": BASE[:2] + segment(0xE2, b"ICC_PROFILE\0\7\1x") + BASE[2:],
}


@pytest.mark.parametrize("data", ADDITIONS.values(), ids=ADDITIONS)
def test_additions_are_no_damage(data: bytes) -> None:
    assert np.array_equal(decode_image(data), by_pillow(BASE))


def drawings() -> Iterator[tuple[str, Image.Image]]:
    """Images whose compressed data is as odd as it gets: even areas are rows of zero bits."""
    for color in ("black", "white", (128, 128, 128), (200, 10, 90)):
        yield str(color), Image.new("RGB", (350, 125), color)
    half = Image.new("RGB", (350, 125))
    half.paste(PHOTO, (0, 125))
    yield "half", half
    text = Image.new("RGB", (350, 125), "white")
    ImageDraw.Draw(text).text((5, 5), "The quick brown fox\n" * 9, fill=0)
    yield "text", text
    ramp = np.tile(np.linspace(0, 255, 350).astype(np.uint8), (250, 1))
    yield "ramp", Image.fromarray(np.stack([ramp] * 3, -1))
    dots = np.full((248, 344, 3), 200, np.uint8)
    dots[::8, ::8] = 60
    yield "dots", Image.fromarray(dots)
    for size in (1, 7, 8, 9, 16, 17):
        yield f"{size} px", PHOTO.crop((0, 0, size, 17 - size // 2))


DRAWINGS = dict(drawings())


@pytest.mark.parametrize("image", DRAWINGS.values(), ids=DRAWINGS)
def test_sound_images_pass_to_the_bit(monkeypatch: pytest.MonkeyPatch, image: Image.Image) -> None:
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 1 << 22)  # Pillow's encoder needs it in one piece
    turns, notes = count(), Image.Exif()
    notes[37500] = bytes(9000)  # a maker's
    for quality in (1, 75, 100):
        for mode in ("RGB", "L", "CMYK"):
            for more in ({}, {"optimize": True}, {"progressive": True}, {"restart_marker_rows": 1}):
                subsampling = {"subsampling": next(turns) % 3} if mode == "RGB" else {}
                data = encoded(image.convert(mode), quality=quality, **subsampling, **more)
                assert np.array_equal(decode_image(data), by_pillow(data)), (quality, mode, more)
    for kind, options in (
        ("PNG", {"optimize": True}),
        ("WEBP", {"method": 1}),
        ("WEBP", {"lossless": True, "exif": notes}),
        ("AVIF", {"speed": 10, "exif": notes}),
        ("JPEG2000", {}),
        *(("TIFF", {"compression": each}) for each in ("tiff_lzw", "tiff_deflate", "jpeg", "zstd")),
    ):
        assert decode_image(encoded(image, kind, **options)).shape[:2] == image.size[::-1]


@pytest.mark.parametrize("factors", [0x111111, 0x211111, 0x121111, 0x221111, 0x411111])
@pytest.mark.parametrize("interval", [0, 5])
def test_another_encoder(factors: int, interval: int) -> None:
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factors, cv2.IMWRITE_JPEG_RST_INTERVAL, interval]
    data = cv2.imencode(".jpg", np.asarray(PHOTO), options)[1].tobytes()
    assert np.array_equal(decode_image(data), by_pillow(data))


def careless(data: bytes) -> np.ndarray:
    """Decode as a GPU does, which makes something up."""
    return np.zeros((300, 360, 3), np.uint8)


def test_every_way_to_decode_agrees(tmp_path: Path) -> None:
    assert not decode_image(BASE, decode_jpeg=careless).any()
    middle = len(BASE) // 2
    damaged = BASE[:middle] + BASE[middle + 4096 :]
    (tmp_path / "a.jpg").write_bytes(damaged)
    with pytest.raises(DecodeError) as here:
        decode_image(damaged)
    with pytest.raises(DecodeError) as on_device:
        decode_image(damaged, decode_jpeg=careless)
    workers = DecodeWorkers(1, memory_mb=512, timeout_s=60)
    with workers, pytest.raises(DecodeError) as apart:
        workers(tmp_path / "a.jpg", exif=True, max_pixels=1 << 20)
    assert str(here.value) == str(on_device.value) == str(apart.value)
    assert str(here.value) == (
        "damaged JPEG (premature end of data segment): copy the file again from its origin"
    )


def test_a_hostile_tiff_is_not_read_again_and_again() -> None:
    """A million strips, and each is the whole file."""
    data = encoded(Image.new("L", (64, 64)), "TIFF", compression="tiff_lzw")
    image = TiffImageFile(BytesIO(data))
    image.tag_v2[273] = (0,) * 1_000_000
    image.tag_v2[279] = (len(data),) * 1_000_000
    assert len(list(tiff._parts(image, data))) == 2
