"""What is decoded to which pixels, what is refused in which words, and that nothing leaks."""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import pytest
from PIL import Image, ImageFile, PngImagePlugin, features

from pipeline.errors import DecodeError
from pipeline.sources.decode.image import FORMATS, MAX_PIXELS, decode_image

RGB = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
GREY = RGB[:, :, 0]
ORIENTATION = 274


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    if kind == "JXL":
        pytest.importorskip("pillow_jxl", reason="the extra jxl is not installed")
    if kind == "HEIF":
        plugin = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
        plugin.from_pillow(image).save(buffer)
    else:
        image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(height: int = 48, width: int = 64) -> Image.Image:
    """A smooth image without symmetry: JPEG changes it little, a wrong rotation a lot."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 / width, y * 255 / height, 60 + x * y * 150 / (width * height)]
    return Image.fromarray(np.stack(channels, 2).astype(np.uint8))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def as_rgb(data: bytes, **options: Any) -> np.ndarray:
    return decode_image(data, **options)[:, :, ::-1]


def png(width: int, height: int) -> bytes:
    """A PNG of any size in under a hundred bytes: a header, and pixels that are not there."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def grey_repeated(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, :, None], 3, axis=2)


# --- pixels ---------------------------------------------------------------------------------------

PALETTE = Image.fromarray(RGB).quantize(8)
SIXTEEN = np.random.default_rng(1).integers(0, 65536, (9, 13), np.uint16)
RGBA = Image.fromarray(np.dstack([RGB, np.zeros_like(GREY)]))
TRANSLUCENT = bytes(range(0, 256, 32))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(encoded(Image.fromarray(RGB)), RGB, id="png"),
        pytest.param(encoded(Image.fromarray(RGB), "BMP"), RGB, id="bmp"),
        pytest.param(encoded(Image.fromarray(RGB), "PPM"), RGB, id="ppm"),
        pytest.param(encoded(Image.fromarray(RGB), "TIFF"), RGB, id="tiff"),
        pytest.param(
            encoded(Image.fromarray(RGB), "TIFF", compression="tiff_lzw"), RGB, id="tiff-lzw"
        ),
        pytest.param(encoded(Image.fromarray(RGB), "WEBP", lossless=True), RGB, id="webp"),
        pytest.param(encoded(Image.fromarray(RGB), "JPEG2000"), RGB, id="jpeg2000"),
        pytest.param(encoded(Image.fromarray(GREY)), grey_repeated(GREY), id="grey"),
        pytest.param(
            encoded(Image.fromarray(GREY > 99)),
            grey_repeated((GREY > 99) * np.uint8(255)),
            id="1-bit",
        ),
        pytest.param(encoded(RGBA), RGB, id="rgba-all-clear-keeps-its-colour"),
        pytest.param(encoded(RGBA, "TIFF"), RGB, id="rgba-tiff"),
        pytest.param(
            encoded(Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (13, 9))])),
            grey_repeated(GREY),
            id="la-all-clear",
        ),
        pytest.param(encoded(PALETTE), np.asarray(PALETTE.convert("RGB")), id="palette"),
        pytest.param(
            encoded(PALETTE, transparency=TRANSLUCENT),
            np.asarray(PALETTE.convert("RGB")),
            id="palette-translucent",
        ),
        pytest.param(encoded(PALETTE, "GIF"), np.asarray(PALETTE.convert("RGB")), id="gif"),
        pytest.param(
            encoded(Image.fromarray(SIXTEEN)), grey_repeated(SIXTEEN >> 8), id="16-bit-png"
        ),
        pytest.param(
            encoded(Image.fromarray(SIXTEEN), "TIFF"), grey_repeated(SIXTEEN >> 8), id="16-bit-tiff"
        ),
        pytest.param(
            encoded(Image.fromarray(SIXTEEN), "PPM"), grey_repeated(SIXTEEN >> 8), id="16-bit-pgm"
        ),
        pytest.param(
            encoded(Image.fromarray(SIXTEEN.astype(np.int32)), "TIFF"),
            grey_repeated(SIXTEEN >> 8),
            id="32-bit-tiff-within-16",
        ),
        pytest.param(
            encoded(Image.fromarray(RGB), "PNG", save_all=True, append_images=[RGBA]),
            RGB,
            id="animated-png",
        ),
        pytest.param(
            encoded(Image.fromarray(RGB), "TIFF", save_all=True, append_images=[RGBA]),
            RGB,
            id="pages",
        ),
        pytest.param(
            encoded(
                Image.new("RGB", (4, 3), (255, 0, 0)),
                "GIF",
                save_all=True,
                append_images=[Image.new("RGB", (4, 3), (0, 0, 255))],
            ),
            np.full((3, 4, 3), (255, 0, 0), np.uint8),
            id="animated-gif",
        ),
        pytest.param(encoded(Image.new("RGB", (1, 1), "red")), [[[255, 0, 0]]], id="1x1"),
    ],
)
def test_pixels(data: bytes, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(as_rgb(data), expected)


@pytest.mark.parametrize("size", [(1, 60000), (60000, 1)], ids=["tall", "wide"])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    assert decode_image(encoded(Image.new("L", size))).shape == (size[1], size[0], 3)


def test_the_result_is_ready_to_be_drawn_on() -> None:
    image = decode_image(encoded(photo(), "JPEG"))
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable


def test_rgb_of_16_bits_keeps_the_high_byte() -> None:
    values = np.random.default_rng(2).integers(0, 65536, (5, 4, 3), np.uint16)
    ok, data = cv2.imencode(".png", values)
    assert ok
    np.testing.assert_array_equal(decode_image(data.tobytes()), values >> 8)


def test_cmyk() -> None:
    cmyk = Image.merge("CMYK", [Image.new("L", (16, 16), value) for value in (255, 0, 255, 0)])
    red, green, blue = as_rgb(encoded(cmyk, "JPEG", quality=95))[8, 8].astype(int)
    assert (red, green, blue) == pytest.approx((0, 255, 0), abs=4)


def test_mpo_gives_its_first_picture() -> None:
    other = Image.new("RGB", (64, 48), "blue")
    data = encoded(photo(), "MPO", save_all=True, append_images=[other])
    assert np.abs(as_rgb(data).astype(int) - np.asarray(photo())).mean() < 3


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif() -> None:
    data = encoded(photo(), "AVIF", quality=95)
    assert np.abs(as_rgb(data).astype(int) - np.asarray(photo())).mean() < 3


def test_the_extension_plays_no_part() -> None:
    for kind in ("PNG", "JPEG"):  # decode_image never hears the file's name
        assert decode_image(encoded(photo(), kind)).shape == (48, 64, 3)


# --- the same pixels as Detectron2 ----------------------------------------------------------------


@pytest.fixture(scope="module")
def read_image() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports are not this test's matter
        utils = pytest.importorskip("detectron2.data.detection_utils")
    return utils.read_image


@pytest.mark.parametrize(
    ("image", "kind", "options"),
    [
        pytest.param(photo(), "JPEG", {}, id="jpeg"),
        pytest.param(photo().convert("L"), "JPEG", {}, id="grey-jpeg"),
        pytest.param(photo().convert("CMYK"), "JPEG", {}, id="cmyk-jpeg"),
        pytest.param(photo(), "PNG", {}, id="png"),
        pytest.param(RGBA, "PNG", {}, id="rgba"),
        pytest.param(PALETTE, "PNG", {}, id="palette"),
        pytest.param(PALETTE, "GIF", {}, id="gif"),
        pytest.param(photo(), "WEBP", {}, id="webp"),
        pytest.param(photo(), "BMP", {}, id="bmp"),
        pytest.param(photo(), "TIFF", {}, id="tiff"),
        pytest.param(photo().convert("1"), "PNG", {}, id="1-bit"),
        *(pytest.param(photo(), "JPEG", {"exif": exif(n)}, id=f"exif-{n}") for n in range(1, 9)),
    ],
)
def test_equals_detectron2(
    read_image: Any, tmp_path: Path, image: Image.Image, kind: str, options: dict[str, Any]
) -> None:
    path = tmp_path / "x"
    path.write_bytes(encoded(image, kind, **options))
    np.testing.assert_array_equal(decode_image(path.read_bytes()), read_image(str(path), "BGR"))


# --- EXIF -----------------------------------------------------------------------------------------


def stored(orientation: int) -> Image.Image:
    """The photo as a camera stores it that notes this orientation."""
    upright = np.asarray(photo())
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: np.rot90(upright.swapaxes(0, 1), 2),
        8: np.rot90(upright, -1),
    }[orientation]
    return Image.fromarray(np.ascontiguousarray(turned))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied(kind: str, orientation: int) -> None:
    data = encoded(stored(orientation), kind, exif=exif(orientation))
    image = as_rgb(data)
    assert image.shape == (48, 64, 3)
    assert np.abs(image.astype(int) - np.asarray(photo())).mean() < 3
    if kind == "JPEG":  # another decoder, which has EXIF of its own
        other = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert np.abs(image[:, :, ::-1].astype(int) - other).mean() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_can_be_left_alone(kind: str) -> None:
    data = encoded(stored(6), kind, exif=exif(6))
    assert decode_image(data, exif=False).shape == (64, 48, 3)


def test_a_tiff_lies_as_its_own_tag_says() -> None:
    data = encoded(stored(6), "TIFF", exif=exif(6))
    assert decode_image(data, exif=False).shape == (48, 64, 3)


BROKEN_EXIF = [
    pytest.param(b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40, id="garbage"),
    pytest.param(b"Exif\0\0XX", id="no-tiff-header"),
    pytest.param(b"Exif\0\0", id="empty"),
    pytest.param(exif(99).tobytes(), id="orientation-99"),
]


@pytest.mark.parametrize("broken", BROKEN_EXIF)
def test_broken_exif_does_not_fail_a_sound_image(broken: bytes, capfd: Any) -> None:
    assert decode_image(encoded(photo(), "JPEG", exif=broken)).shape == (48, 64, 3)
    assert capfd.readouterr() == ("", "")


# --- refusals -------------------------------------------------------------------------------------

JPEG = encoded(photo(), "JPEG")
PNG = encoded(Image.fromarray(RGB))
FLOAT = encoded(Image.fromarray(RGB[:, :, 0].astype(np.float32)), "TIFF")
WIDE_RANGE = encoded(Image.fromarray(np.array([[-1, 70000]], np.int32)), "TIFF")
NOT_AN_IMAGE = r"^not an image that d2run reads \(JPEG, PNG, WEBP, "


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "^empty file$", id="zero-byte"),
        pytest.param(b"hello, world\n" * 9, NOT_AN_IMAGE, id="text"),
        pytest.param(b"\xff", NOT_AN_IMAGE, id="one-byte"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", NOT_AN_IMAGE, id="eps"),
        pytest.param(encoded(photo(), "TGA"), NOT_AN_IMAGE, id="tga"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", NOT_AN_IMAGE, id="svg"),
        pytest.param(JPEG[: len(JPEG) // 2], r"^truncated JPEG \(", id="half-jpeg"),
        pytest.param(JPEG[:-2], r"^truncated JPEG \(", id="jpeg-without-eoi"),
        pytest.param(JPEG[:100], r"^(truncated|broken) JPEG \(", id="jpeg-header"),
        pytest.param(PNG[: len(PNG) // 2], r"^truncated PNG \(", id="half-png"),
        pytest.param(PNG[:20], r"^(truncated|broken) PNG \(", id="png-header"),
        pytest.param(PNG[:60] + b"????" + PNG[64:], r"^broken PNG \(", id="png-checksum"),
        pytest.param(encoded(photo(), "WEBP")[:200], r"^(truncated|broken) WEBP \(", id="webp"),
        pytest.param(encoded(photo(), "TIFF")[:200], r"^(truncated|broken) TIFF \(", id="tiff"),
        pytest.param(encoded(photo(), "GIF")[:900], r"^truncated GIF \(", id="half-gif"),
        pytest.param(
            png(20000, 20000),
            r"^image of 20000x20000 = 400 megapixels is over the limit of 64 "
            r"\(raise source.max_pixels\)$",
            id="400-megapixels",
        ),
        pytest.param(png(10000, 10000), "= 100 megapixels is over", id="100-megapixels"),
        pytest.param(FLOAT, "^floating-point image: .*convert it to 8 or 16 bit", id="float"),
        pytest.param(WIDE_RANGE, r"values -1\.\.70000, outside 0\.\.65535", id="32-bit"),
    ],
)
def test_refused(data: bytes, message: str, capfd: Any) -> None:
    with pytest.raises(DecodeError, match=message) as caught:
        decode_image(data)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_too_large_is_refused_before_a_pixel_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", lambda self: pytest.fail("x"))
    with pytest.raises(DecodeError, match="over the limit"):
        decode_image(png(20000, 20000))


def test_the_limit_is_exact() -> None:
    data = encoded(Image.new("L", (10, 10)))
    assert decode_image(data, max_pixels=100).shape == (10, 10, 3)
    with pytest.raises(DecodeError, match="10x10"):
        decode_image(data, max_pixels=99)


def test_the_limit_is_ours_and_not_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # as another library may have done
    for kind in ("PNG", "JPEG", "BMP", "GIF"):
        assert decode_image(encoded(photo(), kind)).shape == (48, 64, 3)
    monkeypatch.undo()
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="Pillow 13 was the first to limit WebP itself"
)
def test_pillows_own_limit_has_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(photo(), "WEBP")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DecodeError, match=r"^WEBP is larger than Pillow decodes"):
        decode_image(data)


RAISED = [
    OSError("boom"),
    ValueError("boom"),
    TypeError("boom"),
    KeyError("boom"),
    IndexError("boom"),
    AttributeError("boom"),
    SyntaxError("boom"),
    NotImplementedError("boom"),
    OverflowError("boom"),
    ZeroDivisionError("boom"),
    AssertionError("boom"),
    RuntimeError("boom"),
    RecursionError("boom"),
    struct.error("boom"),
    zlib.error("boom"),
    Image.UnidentifiedImageError("boom"),
    Image.DecompressionBombError("boom"),
    EOFError(),
    MemoryError(),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("method", ["load", "_open", "convert"])
def test_every_error_of_pillow_is_translated(
    method: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = PNG

    def raises(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, method, raises)
    with pytest.raises(DecodeError) as caught:
        decode_image(data)
    assert caught.value.__cause__ is not None
    assert "PNG" in str(caught.value)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("Pixel allocation failed: Out of memory")]
)
def test_short_memory_is_not_the_files_fault(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: Any) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", raises)
    with pytest.raises(DecodeError, match=r"^not enough memory to decode this PNG$"):
        decode_image(PNG)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"P6 " + b"\x1b[31m" * 10**6, id="long-token"),
        pytest.param(b"P6 " + b"\x1b[31m 1 255\n", id="control-characters"),
        pytest.param(b"BM" + b"\xff" * 10**6, id="header"),
    ],
)
def test_what_a_file_says_is_quoted_in_short_and_without_control_characters(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^(broken|truncated) ") as caught:
        decode_image(data)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("length", [10**4, 10**8])
def test_a_reason_of_any_length_is_cut(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: Any) -> None:
        raise ValueError("\x1b" * length)

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", raises)
    with pytest.raises(DecodeError, match=r"^broken PNG \(\\x1b") as caught:
        decode_image(PNG)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_not_an_image_error(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: Any) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", raises)
    with pytest.raises(error):
        decode_image(PNG)


@pytest.mark.parametrize("kind", sorted({*FORMATS, "TIFF/jpeg", "TIFF/tiff_lzw"} - {"AVIF"}))
def test_cut_or_spoilt_anywhere_it_decodes_or_says_why(kind: str, capfd: Any) -> None:
    name, _, compression = kind.partition("/")
    whole = encoded(photo(24, 32), name, **({"compression": compression} if compression else {}))
    random = np.random.default_rng(3)
    for at in random.integers(1, len(whole), 60).tolist():
        spoilt = bytearray(whole)
        spoilt[at] ^= int(random.integers(1, 256))
        for data in (whole[:at], bytes(spoilt)):
            try:
                image = decode_image(data, max_pixels=10_000)
            except DecodeError:
                continue  # which is all that may be raised
            assert image.ndim == 3
    assert capfd.readouterr() == ("", "")  # libtiff included


# --- quiet, and on several threads ----------------------------------------------------------------


def test_pillows_warnings_neither_show_nor_become_errors(recwarn: pytest.WarningsRecorder) -> None:
    warnings.simplefilter("error")
    decode_image(encoded(photo(), "JPEG", exif=BROKEN_EXIF[0].values[0]))
    decode_image(encoded(PALETTE, transparency=TRANSLUCENT))
    assert not recwarn.list


def test_other_warnings_are_left_alone() -> None:
    decode_image(PNG)
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


def test_pillows_log_is_quiet() -> None:
    assert not logging.getLogger("PIL.TiffImagePlugin").isEnabledFor(logging.ERROR)


def test_threads() -> None:
    warnings.simplefilter("error")
    odd = encoded(PALETTE, transparency=TRANSLUCENT)  # Pillow warns of each
    expected = decode_image(odd)
    with ThreadPoolExecutor(8) as pool:
        for image in pool.map(decode_image, [odd] * 200):
            np.testing.assert_array_equal(image, expected)


def test_default_limit() -> None:
    assert MAX_PIXELS == 64_000_000
