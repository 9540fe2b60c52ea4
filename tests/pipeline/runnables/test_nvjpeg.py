"""JPEGs decoded by torchvision instead of Pillow: bit-identical on the CPU, nearly on CUDA."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ConfigError, DecodeError, DeviceLostError
from pipeline.runnables.nvjpeg import DeviceJpeg
from pipeline.sources.decode.image import decode_image
from pipeline.sources.decode.reading import read_image

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.detectron2

Y, X = np.mgrid[0:150, 0:201]
RGB = np.stack([X * 255 / 201, Y * 255 / 150, 60 + X * Y * 150 / (150 * 201)], 2).astype(np.uint8)
PICTURES: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "poor": {"quality": 20},
}


def jpeg(image: Image.Image = Image.fromarray(RGB), **options: Any) -> bytes:  # noqa: B008
    buffer = BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


class Counting:
    """Decodes on a device, and says how often it did."""

    def __init__(self, device: str = "cpu") -> None:
        self.decode = DeviceJpeg(device)
        self.done = 0

    def __call__(self, data: bytes) -> Any:
        found = self.decode(data)
        self.done += 1
        return found


def test_without_memory_it_is_not_left_to_pillow() -> None:
    decoder = DeviceJpeg("cpu")

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    decoder._decode = full
    with pytest.raises(DecodeError, match="cpu has no memory left"):
        decode_image(jpeg(), decode_jpeg=decoder)


def test_a_device_that_fails_for_good() -> None:
    decoder = DeviceJpeg("cpu")

    def fails(*_: Any, **__: Any) -> Any:
        raise torch.AcceleratorError("CUDA error")

    decoder._decode = fails
    with pytest.raises(DeviceLostError):
        decode_image(jpeg(), decode_jpeg=decoder)


def test_a_device_that_decodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such operator")

    monkeypatch.setattr("torchvision.io.decode_jpeg", cannot)
    with pytest.raises(ConfigError, match="nvjpeg: cpu cannot decode: no such operator"):
        DeviceJpeg("cpu")


@pytest.mark.parametrize("options", PICTURES.values(), ids=PICTURES)
def test_on_the_cpu_it_is_pillow_to_the_bit(options: dict[str, Any]) -> None:
    data, decoder = jpeg(**options), Counting()
    got = decode_image(data, decode_jpeg=decoder)
    assert decoder.done == 1
    assert np.array_equal(got, decode_image(data))
    assert got.flags.writeable
    assert got.flags.c_contiguous


def test_grey() -> None:
    data, decoder = jpeg(Image.fromarray(RGB[:, :, 0])), Counting()
    assert np.array_equal(decode_image(data, decode_jpeg=decoder), decode_image(data))
    assert decoder.done == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("exif", [True, False])
def test_pictures_are_turned_upright(orientation: int, exif: bool) -> None:
    tags = Image.Exif()
    tags[274] = orientation
    data, decoder = jpeg(exif=tags), Counting()
    got = decode_image(data, exif=exif, decode_jpeg=decoder)
    assert decoder.done == 1
    assert np.array_equal(got, decode_image(data, exif=exif))


def test_what_is_not_the_usual_jpeg_is_left_to_pillow() -> None:
    decoder = Counting()
    stored_as_rgb = jpeg(keep_rgb=True)
    buffer = BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG")
    for data in (jpeg(Image.fromarray(RGB).convert("CMYK")), stored_as_rgb, buffer.getvalue()):
        assert np.array_equal(decode_image(data, decode_jpeg=decoder), decode_image(data))
    assert decoder.done == 0


def test_what_the_device_cannot_read_is_left_to_pillow() -> None:
    def cannot(_: bytes) -> Any:
        raise RuntimeError("nvjpeg: not supported")

    data = jpeg()
    assert np.array_equal(decode_image(data, decode_jpeg=cannot), decode_image(data))


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_what_is_cut_short_is_refused(keep: float) -> None:
    data = jpeg()
    with pytest.raises(DecodeError, match="truncated JPEG"):
        decode_image(data[: int(len(data) * keep)], decode_jpeg=DeviceJpeg("cpu"))

    def filled_up(_: bytes) -> Any:  # as a decoder may that looks for no end
        return RGB

    with pytest.raises(DecodeError, match="truncated JPEG"):
        decode_image(data[:-2] + bytes(100), decode_jpeg=filled_up)


def test_damage_is_found_before_the_device_decodes() -> None:
    data, decoder = jpeg(), Counting()
    middle = len(data) // 2
    with pytest.raises(DecodeError, match="damaged JPEG"):
        decode_image(data[:middle] + data[middle + 200 :], decode_jpeg=decoder)
    assert decoder.done == 0


def test_too_large_a_picture_is_refused_before_it_is_decoded() -> None:
    decoder = Counting()
    with pytest.raises(DecodeError, match="over the limit"):
        decode_image(jpeg(), max_pixels=100, decode_jpeg=decoder)
    assert decoder.done == 0


def test_as_an_assets_reader(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    decoder = Counting()
    got = read_image(tmp_path / "a.jpg", decode_jpeg=decoder)
    want = read_image(tmp_path / "a.jpg")
    assert decoder.done == 1
    assert np.array_equal(got.image, want.image)
    assert got.sha256 == want.sha256


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", PICTURES.values(), ids=PICTURES)
def test_on_cuda_it_is_nearly_pillow(options: dict[str, Any]) -> None:
    data, decoder = jpeg(**options), Counting("cuda:0")
    got = decode_image(data, decode_jpeg=decoder)
    assert decoder.done == 1
    difference = cv2.absdiff(got, decode_image(data))
    assert difference.mean() <= 1.5
    assert np.quantile(difference, 0.999) <= 16


def test_a_torchvision_without_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.delattr(torchvision.io, "decode_jpeg")
    with pytest.raises(ConfigError, match=r"nvjpeg: torchvision has no decoder: .*decode_jpeg"):
        DeviceJpeg("cpu")
