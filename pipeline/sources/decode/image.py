"""Bytes to pixels: one image file, whole and sound, or a DecodeError that says why not.

Decoders fill what a damaged file lacks with something plausible and say nothing, so each format is
checked for that. For 8-bit images the pixels are those of Detectron2's ``read_image``.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.errors import DecodeError, DeviceLostError, printable
from pipeline.sources.decode import damage, jpeg, tiff

DecodeJpeg = Callable[[bytes], NDArray[np.uint8]]
MAX_PIXELS = 64_000_000
NO_MEMORY = "not enough memory to decode"

# What is read. Nothing else is tried: EPS would start Ghostscript, TGA and DIB have no signature,
# and the rest of Pillow's formats are not photographs. MPO is found by its first JPEG.
_READ = (
    JpegImageFile,
    PngImageFile,
    WebPImageFile,
    AvifImageFile,
    BmpImageFile,
    TiffImageFile,
    GifImageFile,
    PpmImageFile,
    Jpeg2KImageFile,
)
FORMATS = tuple(str(reader.format) for reader in _READ)

_TRANSPOSE = {  # EXIF 2.32, tag 274: how the stored picture must be turned to stand upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 274
_END_OF_JPEG = b"\xff\xd9"  # which cannot occur inside a scan
_CUT_SHORT = re.compile(r"truncated|unexpected end|not enough|buffer of \d+ bytes", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile(r"out of memory|insufficient memory", re.IGNORECASE)
_MAX_DETAIL = 200
_IGNORED = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

# Of a broken file Pillow speaks on its logger before it raises; the error says enough.
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def decode_image(
    data: bytes,
    *,
    exif: bool = True,
    max_pixels: int = MAX_PIXELS,
    decode_jpeg: DecodeJpeg | None = None,
) -> NDArray[np.uint8]:
    """Return the first picture in an image file. Safe to call on several threads at once.

    Alpha is dropped and the colour under it kept; palettes are looked up; CMYK becomes RGB without
    its ICC profile; grey is repeated three times; 16-bit values keep their high byte.

    Args:
        data: The whole file.
        exif: Turn the picture upright as its EXIF orientation says. A TIFF's own orientation tag
            says how its rows lie and is always obeyed.
        max_pixels: Refuse a larger picture, by its header, before memory is taken for it.
        decode_jpeg: Converts sound JPEGs of the usual colors to RGB, as they are stored; where it
            raises a RuntimeError, they are decoded here.

    Returns:
        uint8 ``(H, W, 3)``, BGR, contiguous and writable.

    Raises:
        DecodeError: The data is not an image that is read here, is truncated, broken or damaged,
            is too large, or has values whose range is not known; the message says which.
    """
    if not data:
        raise DecodeError("empty file")
    kind = _kind(data[:16])
    if kind is None:
        raise DecodeError(f"not an image that d2run reads ({', '.join(FORMATS)})")
    _silence_pillow()
    try:
        image = _open(kind, data)
        _check_size(image.size, max_pixels)
        bgr = _jpeg(image, data, decode_jpeg) if kind == "JPEG" else None
        if bgr is None:
            bgr = _pixels(image, data, kind)
        method = _TRANSPOSE.get(_orientation(image)) if exif else None
        return bgr if method is None else np.array(Image.fromarray(bgr).transpose(method))
    except (DecodeError, DeviceLostError):
        raise
    except Exception as exc:  # Pillow raises a dozen classes for broken files, TypeError included
        raise DecodeError(_reason(kind, exc)) from exc


def _jpeg(
    image: ImageFile, data: bytes, decode_jpeg: DecodeJpeg | None
) -> NDArray[np.uint8] | None:
    """Return the pixels of a JPEG, or ``None`` if Pillow has to say what they are."""
    if image.mode == "CMYK":
        values = jpeg.decode(data, *image.size, colors="CMYK")
        if values is None:
            return None
        inverted = Image.frombuffer("CMYK", image.size, values, "raw", "CMYK;I", 0, 1)
        return _bgr(np.asarray(inverted.convert("RGB")))
    # not of an MPO, nor RGB that is stored as such
    if decode_jpeg and image.format == "JPEG" and image.info.get("adobe_transform", 1) == 1:
        with contextlib.suppress(RuntimeError):  # of torch: a kind that it does not read
            if jpeg.check(data, max_pixels=image.width * image.height):
                return _bgr(decode_jpeg(data))
    return jpeg.decode(data, *image.size)


def _pixels(image: ImageFile, data: bytes, kind: str) -> NDArray[np.uint8]:
    scan = image.fp.tell() if image.fp else 0
    if isinstance(image, TiffImageFile):
        tiff.load(image)
        tiff.check(image, data)
    else:
        image.load()
        damage.check(kind, data)
    if kind == "JPEG" and data.find(_END_OF_JPEG, scan) < 0:
        # half a file, filled up with zeros: libjpeg takes them for more of the image
        raise DecodeError("truncated JPEG (its end is missing)")
    return _bgr(np.asarray(_to_rgb(image)))


def _bgr(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2  # a tenth of a second that most commands do not need

    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)


def _kind(prefix: bytes) -> str | None:
    for name in FORMATS:
        accepts = Image.OPEN[name][1]
        if accepts is not None and accepts(prefix) is True:  # a str says that support is missing
            return name
    return None


def _open(kind: str, data: bytes) -> ImageFile:
    # Image.open would do the same and then apply Image.MAX_IMAGE_PIXELS, a limit of the process;
    # ours is an option, and must be able to be higher.
    return Image.OPEN[kind][0](BytesIO(data), "")


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height < 1:
        raise DecodeError(f"image of {width}x{height} has no pixels")
    if width * height > max_pixels:
        raise DecodeError(
            f"image of {width}x{height} = {width * height / 1e6:.9g} megapixels is over the limit "
            f"of {max_pixels / 1e6:.9g} (raise source.max_pixels)"
        )


def _orientation(image: Image.Image) -> int:
    # Asked after load(), which turns a TIFF upright itself and forgets the tag.
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata does not make the picture unsound
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DecodeError(
            "floating-point image: what is black and what is white is not stated in it "
            "(convert it to 8 or 16 bit)"
        )
    if image.mode.startswith("I"):  # I;16 and its byte orders; I, which holds 16-bit PGM
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise DecodeError(
                f"32-bit image with values {values.min()}..{values.max()}, outside 0..65535 "
                "(convert it to 8 or 16 bit)"
            )
        image = Image.fromarray((values >> 8).astype(np.uint8))
    return image.convert("RGB")


def _reason(kind: str, exc: Exception) -> str:
    # Pillow quotes what it finds in a file, and a file may hold anything, of any length.
    detail = printable(" ".join(str(exc)[:_MAX_DETAIL].split())) or type(exc).__name__
    if isinstance(exc, MemoryError) or _OUT_OF_MEMORY.search(detail):
        return f"{NO_MEMORY} this {kind}"
    if isinstance(exc, Image.DecompressionBombError):
        return f"{kind} over the size that Pillow decodes ({detail})"
    if isinstance(exc, EOFError) or _CUT_SHORT.search(detail):
        return f"truncated {kind} ({detail})"
    return f"broken {kind} ({detail})"


def _silence_pillow() -> None:
    # catch_warnings would swap the filters of all threads back and forth. One filter for Pillow's
    # own modules, put in front once, is the same for everybody and leaves other warnings alone.
    if list(warnings.filters[:1]) != [_IGNORED]:
        warnings.filterwarnings("ignore", module=r"PIL\.")
