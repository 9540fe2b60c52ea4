"""Seventy odd, broken and hostile files, made on the spot, and what is to become of each."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms, features

HEIGHT, WIDTH = 48, 64
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
UPRIGHT = (RED, GREEN, BLUE, WHITE)  # from left to right, then the lower row

NOT_READ = "not an image that d2run reads"
TOO_LARGE = r"image of .* is over the limit of 64 \(raise source.max_pixels\)$"


@dataclass(frozen=True)
class OddFile:
    """A file in a folder, and its fate: ``corners`` if it is read, else ``refused`` or ``skipped``.

    Attributes:
        name: Relative to the folder.
        data: All of it.
        corners: RGB near the four corners of the upright picture.
        size: ``(height, width)`` of the upright picture.
        refused: What the reason of its failure begins with; a pattern.
        skipped: Why a walk leaves it out.
    """

    name: str
    data: bytes
    corners: tuple[tuple[int, int, int], ...] = ()
    size: tuple[int, int] = (HEIGHT, WIDTH)
    refused: str = ""
    skipped: str = ""


def odd_files() -> Iterator[OddFile]:
    yield from _read()
    yield from _refused()
    yield from _bombs()
    for name, data, kind in (
        ("photo.eps", EPS, "(.eps)"),
        ("photo.svg", SVG, "(.svg)"),
        ("photo.fits", FITS, "(.fits)"),
    ):
        yield OddFile(name, data, skipped=f"unsupported image format {kind}")
        yield OddFile(f"{name}.jpg", data, refused=NOT_READ)
    yield OddFile("photo.heic.jpg", HEIC, refused=r"broken HEIF \(")
    yield OddFile("film.mp4", HEIC, refused="not a video that d2run reads")
    yield OddFile("notes.txt", b"notes", skipped="not an image (.txt)")
    yield OddFile(".hidden.jpg", saved("JPEG"), skipped="hidden")
    yield OddFile("upload.jpg.part", saved("JPEG"), skipped="temporary file")


def quadrants(
    mode: str = "RGB", colours: tuple[tuple[int, int, int], ...] = UPRIGHT
) -> Image.Image:
    pixels = np.array(colours, np.uint8).reshape(2, 2, 3)
    whole = pixels.repeat(HEIGHT // 2, 0).repeat(WIDTH // 2, 1)
    return Image.fromarray(whole).convert(mode)


def blue() -> Image.Image:
    """The further frames of a file. A new image each time, because saving changes an image."""
    return Image.new("RGB", (WIDTH, HEIGHT), BLUE)


def saved(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = BytesIO()
    (image or quadrants()).save(
        buffer, kind, **({"quality": 95} if kind == "JPEG" else {}) | options
    )
    return buffer.getvalue()


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A whole, black 1-bit PNG; 20000x20000 pixels take 48 KB."""
    stream = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(stream.compress(row) for _ in range(height)) + stream.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")):
        checksum = zlib.crc32(name + body)
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)
    return data


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
EPS = saved("EPS")
SVG = b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'><rect width='9'/></svg>"
FITS = b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800)


def _read() -> Iterator[OddFile]:
    luminance = ((76,) * 3, (150,) * 3, (29,) * 3, WHITE)
    half_clear = Image.merge(
        "LA", [quadrants("L"), Image.linear_gradient("L").resize((WIDTH, HEIGHT))]
    )
    clear = quadrants("RGBA")
    clear.putalpha(0)
    palette = quadrants().quantize(4)
    sixteen = np.asarray(quadrants("L")).astype(np.uint16) * 257
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    yield OddFile("png-as.jpg", saved("PNG"), UPRIGHT)
    yield OddFile("jpeg-as.png", saved("JPEG"), UPRIGHT)
    yield OddFile("1x60000.png", png(1, 60000), (BLACK,) * 4, (60000, 1))
    yield OddFile("60000x1.png", png(60000, 1), (BLACK,) * 4, (1, 60000))
    yield OddFile("1x1.png", png(1, 1), (BLACK,) * 4, (1, 1))
    yield OddFile("16-bit.png", saved("PNG", Image.fromarray(sixteen)), luminance)
    yield OddFile("16-bit.tif", saved("TIFF", Image.fromarray(sixteen)), luminance)
    yield OddFile("cmyk-adobe.jpg", saved("JPEG", quadrants("CMYK")), UPRIGHT)
    yield OddFile("cmyk.jpg", _cmyk_without_adobe(), UPRIGHT)
    yield OddFile("cmyk.tif", saved("TIFF", quadrants("CMYK")), UPRIGHT)
    yield OddFile("la.png", saved("PNG", half_clear), luminance)
    yield OddFile("p-trns.png", saved("PNG", palette, transparency=bytes([0, 99, 0, 0])), UPRIGHT)
    yield OddFile("rgba-clear.png", saved("PNG", clear), UPRIGHT)
    yield OddFile("grey.jpg", saved("JPEG", quadrants("L")), luminance)
    bits = Image.fromarray(np.asarray(quadrants("L")) > 99)
    yield OddFile("1-bit.png", saved("PNG", bits), (BLACK, WHITE, BLACK, WHITE))
    yield OddFile(
        "1-bit-fax.tif", saved("TIFF", bits, compression="group4"), (BLACK, WHITE, BLACK, WHITE)
    )
    for orientation in range(1, 9):
        yield OddFile(f"exif-{orientation}.jpg", _turned(orientation), UPRIGHT)
    yield OddFile(
        "animated.gif", saved("GIF", save_all=True, append_images=[blue(), blue()]), UPRIGHT
    )
    yield OddFile(
        "animated.webp",
        saved("WEBP", lossless=True, save_all=True, append_images=[blue(), blue()]),
        UPRIGHT,
    )
    yield OddFile(
        "animated.apng", saved("PNG", save_all=True, append_images=[blue(), blue()]), UPRIGHT
    )
    yield OddFile(
        "two.mpo", saved("MPO", quality=95, save_all=True, append_images=[blue(), blue()]), UPRIGHT
    )
    pages = saved("TIFF", save_all=True, append_images=[blue(), blue()])
    yield OddFile("pages.tif", pages, UPRIGHT)
    yield OddFile("pages-loop.tif", _looping(saved("TIFF")), UPRIGHT)
    if features.check("avif"):
        yield OddFile("photo.avif", saved("AVIF", quality=95), UPRIGHT)
    yield OddFile("icc.jpg", saved("JPEG", icc_profile=profile), UPRIGHT)
    yield OddFile("icc-broken.jpg", saved("JPEG", icc_profile=profile[:99]), UPRIGHT)
    yield OddFile("trailing.jpg", saved("JPEG") + b"\0" * 999, UPRIGHT)
    yield OddFile("twice.jpg", saved("JPEG") + saved("JPEG", blue()), UPRIGHT)


def _refused() -> Iterator[OddFile]:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    jpeg = saved("JPEG", Image.fromarray(noise))
    whole_png, webp, tiff = saved("PNG"), saved("WEBP"), saved("TIFF")
    yield OddFile("zero-byte.jpg", b"", refused="empty file$")
    yield OddFile("text.jpg", b"hello, world\n" * 9, refused=NOT_READ)
    yield OddFile("half.jpg", jpeg[: len(jpeg) // 2], refused=r"truncated JPEG \(")
    yield OddFile("no-eoi.jpg", jpeg[:-2], refused=r"truncated JPEG \(")
    yield OddFile("half.png", whole_png[: len(whole_png) // 2], refused=r"truncated PNG \(")
    yield OddFile("half.webp", webp[: len(webp) // 2], refused=r"(truncated|broken) WEBP \(")
    yield OddFile("half.tif", tiff[: len(tiff) // 2], refused=r"(truncated|broken) TIFF \(")
    at = whole_png.index(b"IDAT") + 9
    flipped = whole_png[:at] + bytes([whole_png[at] ^ 1]) + whole_png[at + 1 :]
    yield OddFile("flipped.png", flipped, refused=r"broken PNG \(")
    yield OddFile("zeros.jpg", bytes(5000), refused=NOT_READ)
    copied = jpeg[: len(jpeg) // 2].ljust(len(jpeg), b"\0")
    yield OddFile("half-copied.jpg", copied, refused=r"truncated JPEG \(")


def _bombs() -> Iterator[OddFile]:
    """Small files of large images; except for the first two, only the header is large."""
    side = 60000
    animated = saved("WEBP", save_all=True, append_images=[blue()])
    canvas = animated.index(b"VP8X") + 12  # its sides, less one, in three bytes each
    tiff = saved("TIFF")
    for number, value in ((256, WIDTH), (257, HEIGHT)):
        tiff = _with_size(tiff, "<HHII", (number, 4, 1, value), (number, 4, 1, side))
    for name, data in (
        ("400mp.png", png(20000, 20000)),
        ("100mp.png", png(10000, 10000)),
        ("huge.jpg", _with_size(saved("JPEG"), ">HH", (HEIGHT, WIDTH), (side, side))),
        ("huge.bmp", _with_size(saved("BMP"), "<ii", (WIDTH, HEIGHT), (side, side))),
        ("huge.gif", _with_size(saved("GIF"), "<HH", (WIDTH, HEIGHT), (side, side))),
        ("huge.jp2", _with_size(saved("JPEG2000"), ">II", (HEIGHT, WIDTH), (side, side))),
        ("huge.tif", tiff),
        ("huge.ppm", b"P6 60000 60000 255\n"),
    ):
        yield OddFile(name, data, refused=TOO_LARGE)
    huge = animated[:canvas] + b"\xfe\x3f\0" * 2 + animated[canvas + 6 :]
    yield OddFile("huge.webp", huge, refused="image of .* is over the limit|WEBP is larger")
    text = (b"zTXt", b"k\0\0" + zlib.compress(bytes(100 << 20)))
    yield OddFile("text-bomb.png", png(8, 8, text), refused=r"broken PNG \(")


def _with_size(data: bytes, layout: str, old: tuple[int, ...], new: tuple[int, ...]) -> bytes:
    assert struct.pack(layout, *old) in data
    return data.replace(struct.pack(layout, *old), struct.pack(layout, *new))


def _turned(orientation: int) -> bytes:
    """The image as stored by a camera that records this orientation."""
    upright = np.asarray(quadrants())
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: np.rot90(upright.swapaxes(0, 1), 2),
        8: np.rot90(upright, -1),
    }[orientation]
    tags = Image.Exif()
    tags[274] = orientation
    return saved("JPEG", Image.fromarray(np.ascontiguousarray(stored)), exif=tags)


def _cmyk_without_adobe() -> bytes:
    data = saved("JPEG", quadrants("CMYK"))
    # APP14; without it, too, Pillow and so Detectron2 take the inks to be stored inverted
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0] :]


def _looping(data: bytes) -> bytes:
    """A TIFF whose first page says that it is the next one."""
    (first,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[first : first + 2])
    at = first + 2 + 12 * count
    return data[:at] + data[4:8] + data[at + 4 :]
