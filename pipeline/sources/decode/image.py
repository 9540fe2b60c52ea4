"""Decodes an image file, or raises a DecodeError that says why it cannot.

Decoders fill missing parts of a damaged file with plausible pixels, silently, so each format is
checked for damage. For 8-bit images, the pixels are those of Detectron2's ``read_image``.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
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
from pipeline.sources.decode.formats import damage, extras, jpeg, tiff
from pipeline.sources.decode.options import MAX_PIXELS as MAX_PIXELS
from pipeline.sources.decode.options import Decoded, FrameOptions

DecodeJpeg = Callable[[bytes], NDArray[np.uint8]]
NO_MEMORY = "not enough memory to decode"

# The supported formats. Others are not tried: EPS would start Ghostscript, TGA and DIB have no
# signature, and Pillow's other formats are not photographs. MPO is recognized by its first JPEG.
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
_BUILT_IN = tuple(str(reader.format) for reader in _READ)
FORMATS = (*_BUILT_IN, *extras.FORMATS)

_TRANSPOSE = {  # EXIF 2.32, tag 274: how to turn the stored image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 274
_END_OF_JPEG = b"\xff\xd9"  # cannot occur inside a scan
_CUT_SHORT = re.compile(r"truncated|unexpected end|not enough|buffer of \d+ bytes", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile(r"out of memory|insufficient memory", re.IGNORECASE)
_MAX_DETAIL = 200
_IGNORED = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

# Pillow also logs a broken file before it raises; the error is enough.
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def decode_image(
    data: bytes,
    *,
    exif: bool = True,
    max_pixels: int = MAX_PIXELS,
    decode_jpeg: DecodeJpeg | None = None,
) -> NDArray[np.uint8]:
    """Return the first image in an image file. Can be called on several threads at once.

    Alpha is dropped and the color under it kept; palettes are resolved; CMYK becomes RGB without
    its ICC profile; gray is repeated three times; 16-bit values keep their high byte.

    Args:
        data: The whole file.
        exif: Apply the EXIF orientation. What the format itself says of the orientation is always
            applied (TIFF, HEIC, JPEG XL).
        max_pixels: Refuse a larger image according to its header, before allocating memory.
        decode_jpeg: Decodes intact JPEGs with the usual color spaces to RGB, without applying the
            orientation. If it raises a RuntimeError, the image is decoded here.

    Returns:
        uint8 ``(H, W, 3)``, BGR, contiguous and writable.

    Raises:
        DecodeError: The data is not a supported image, is truncated, broken or damaged, is too
            large, or has values of unknown range; the message says which.
    """
    if not data:
        raise DecodeError("empty file")
    kind = kind_of(data[:256])
    if kind is None:
        raise DecodeError(f"not an image that d2run reads ({', '.join(FORMATS)})")
    _silence_pillow()
    extras.check_installed(kind)
    try:
        if kind == "JXL":
            return _jxl(data, exif, max_pixels, decode_jpeg)
        image = extras.open_heif(data) if kind == "HEIF" else _open(kind, data)
        check_size(image.size, max_pixels)
        bgr = _jpeg(image, data, decode_jpeg) if kind == "JPEG" else None
        if bgr is None:
            bgr = _pixels(image, data, kind)
        return _upright(bgr, image, exif)
    except (DecodeError, DeviceLostError):
        raise
    except Exception as exc:  # Pillow raises a dozen classes for broken files, TypeError included
        raise DecodeError(_reason(kind, exc)) from exc


def decode_pages(data: bytes, options: FrameOptions) -> Iterator[Decoded]:
    """Yield every page of an image file, or every image of an animation with its timestamp.

    Each page is decoded as ``decode_image`` decodes the first one. An image of an animation is the
    whole image that is shown, with what its predecessors left.

    Args:
        data: The whole file.
        options: ``exif``, ``max_pixels`` and ``stride``.

    Raises:
        DecodeError: See ``decode_image``.
    """
    kind = kind_of(data[:16])
    if kind in (None, "JPEG", "JXL"):
        yield Decoded(decode_image(data, exif=options.exif, max_pixels=options.max_pixels))
        return
    assert kind is not None
    _silence_pillow()
    extras.check_installed(kind)
    pts = 0
    try:
        image = extras.open_heif(data) if kind == "HEIF" else _open(kind, data)
        for page in range(getattr(image, "n_frames", 1)):
            image.seek(page)
            check_size(image.size, options.max_pixels)
            if page % options.stride == 0:
                bgr = _pixels(image, data, kind)
                duration_ms = image.info.get("duration")
                time = (None, None) if duration_ms is None else (pts, Fraction(1, 1000))
                yield Decoded(_upright(bgr, image, options.exif), *time)
            # players show an image without a duration for a tenth of a second
            pts += round(image.info.get("duration") or 100)
    except DecodeError:
        raise
    except Exception as exc:
        raise DecodeError(_reason(kind, exc)) from exc


def _upright(bgr: NDArray[np.uint8], image: Image.Image, exif: bool) -> NDArray[np.uint8]:
    method = _TRANSPOSE.get(_orientation(image)) if exif else None
    return bgr if method is None else np.array(Image.fromarray(bgr).transpose(method))


def _jxl(
    data: bytes, exif: bool, max_pixels: int, decode_jpeg: DecodeJpeg | None
) -> NDArray[np.uint8]:
    check_size(extras.jxl_size(data), max_pixels)  # opening decodes all of it
    damage.check("JXL", data)
    image = extras.open_jxl(data)
    if isinstance(image, bytes):
        return decode_image(image, exif=exif, max_pixels=max_pixels, decode_jpeg=decode_jpeg)
    return _bgr(np.asarray(_to_rgb(image)))


def _jpeg(
    image: ImageFile, data: bytes, decode_jpeg: DecodeJpeg | None
) -> NDArray[np.uint8] | None:
    """Return the pixels of a JPEG, or ``None`` if Pillow must decode it."""
    if image.mode == "CMYK":
        values = jpeg.decode(data, *image.size, colors="CMYK")
        if values is None:
            return None
        inverted = Image.frombuffer("CMYK", image.size, values, "raw", "CMYK;I", 0, 1)
        return _bgr(np.asarray(inverted.convert("RGB")))
    # not for an MPO, or for RGB stored without conversion
    if decode_jpeg and image.format == "JPEG" and image.info.get("adobe_transform", 1) == 1:
        with contextlib.suppress(RuntimeError):  # a kind that torch does not decode
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
        # half a file filled with zeros, which libjpeg decodes as more of the image
        raise DecodeError("truncated JPEG (its end is missing)")
    return _bgr(np.asarray(_to_rgb(image)))


def _bgr(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2  # takes 0.1 s, and most commands do not need it

    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)


def kind_of(prefix: bytes) -> str | None:
    """Return the format of a file that begins with these 256 bytes, as Pillow names it."""
    if kind := extras.kind_of(prefix):  # Pillow would say AVIF of some HEIC files
        return kind
    for name in _BUILT_IN:
        accepts = Image.OPEN[name][1]
        if accepts is not None and accepts(prefix) is True:  # a str if support is missing
            return name
    return None


def _open(kind: str, data: bytes) -> ImageFile:
    # Image.open would do the same and then apply Image.MAX_IMAGE_PIXELS, a limit for the whole
    # process; max_pixels is an option and can be higher.
    return Image.OPEN[kind][0](BytesIO(data), "")


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Check the size of an image, (width, height), before memory is allocated for it.

    Raises:
        DecodeError: It has no pixels, or more than ``max_pixels``.
    """
    width, height = size
    if width * height < 1:
        raise DecodeError(f"image of {width}x{height} has no pixels")
    if width * height > max_pixels:
        raise DecodeError(
            f"image of {width}x{height} = {width * height / 1e6:.9g} megapixels is over the limit "
            f"of {max_pixels / 1e6:.9g} (raise source.max_pixels)"
        )


def _orientation(image: Image.Image) -> int:
    # read after load(), which applies a TIFF's orientation itself and drops the tag
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata does not make the pixels invalid
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DecodeError(
            "floating-point image: the file does not state which values are black and white "
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
    # Pillow quotes the content of the file, which can be anything, of any length
    detail = printable(" ".join(str(exc)[:_MAX_DETAIL].split())) or type(exc).__name__
    if isinstance(exc, MemoryError) or _OUT_OF_MEMORY.search(detail):
        return f"{NO_MEMORY} this {kind}"
    if isinstance(exc, Image.DecompressionBombError):
        return f"{kind} is larger than Pillow decodes ({detail})"
    if isinstance(exc, EOFError) or _CUT_SHORT.search(detail):
        return f"truncated {kind} ({detail})"
    return f"broken {kind} ({detail})"


def _silence_pillow() -> None:
    # catch_warnings is not safe with several threads. A single filter for Pillow's own modules,
    # inserted once, affects no other warnings.
    if list(warnings.filters[:1]) != [_IGNORED]:
        warnings.filterwarnings("ignore", module=r"PIL\.")
