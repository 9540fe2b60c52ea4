"""On a CUDA device: the same results as DefaultPredictor there, and the memory given back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from random_model import ARCHITECTURES, PHOTOS, RandomModel, assert_equal, photo, reference

from pipeline.errors import DeviceError
from pipeline.records import Frame, Predictions
from pipeline.runnables.detectron2 import Detectron2
from pipeline.runnables.nvjpeg import DeviceJpeg
from pipeline.runnables.steps.preprocess import resize
from pipeline.store import Model
from pipeline.system.devices import resolve_device

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.detectron2,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # torch.compile's advice; d2run leaves torch's setting as it is
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exact(architecture: str) -> None:
    model = RandomModel(ARCHITECTURES[architecture])
    images = [photo(name) for name in PHOTOS]
    with Detectron2(model, "cuda:0", exact=True) as runnable:
        got = runnable.predict([Frame(image, "x") for image in images])
        expected = reference(model, images, device="cuda:0")
    for predictions, want in zip(got, expected, strict=True):
        assert_equal(predictions, want, box_px=1e-3)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"precision": "bf16"},
    {"precision": "fp16"},
    {"resize_on_device": True},
    {"engine": "compile"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_on_a_trained_model(options: dict[str, Any]) -> None:
    paths = sorted((Path(__file__).parents[2] / "examples" / "shapes" / "scenes").glob("*.jpg"))
    frames = [Frame(cv2.imread(str(path)), path.name) for path in paths]

    def found(**options: Any) -> list[Predictions]:
        with Detectron2(Model("shapes", tag="shapes"), "cuda:0", **options) as runnable:
            return [each[each.scores > 0.5] for each in runnable.predict(frames)]

    want, got = found(exact=True), found(**options)
    assert sum(map(len, want)) >= 20
    for one, two in zip(got, want, strict=True):
        overlap = coco_mask.iou(one.masks.rle(), two.masks.rle(), [0] * len(two))
        assert len(one) == len(two)
        assert overlap.max(axis=1).min() > 0.9


def test_batches_on_many_threads_are_those_of_one() -> None:
    model = RandomModel(ARCHITECTURES["mask_rcnn"])
    frames = [Frame(np.roll(photo("coffee"), 10 * i, axis=1).copy(), str(i)) for i in range(12)]
    with (
        Detectron2(model, "cuda:0", batch_size="auto") as runnable,
        ThreadPoolExecutor(4) as pool,
    ):
        assert runnable.batch_size in (1, 2, 4, 8, 16)
        want = runnable.predict(frames)
        outputs = runnable.forward(list(pool.map(runnable.prepare, frames)))
        got = list(pool.map(runnable.finish, frames, outputs))
    for one, two in zip(got, want, strict=True):
        np.testing.assert_array_equal(one.boxes, two.boxes)
        assert one.masks.rle() == two.masks.rle()


def test_nvjpeg_on_many_threads_is_near_pillow() -> None:
    decode = DeviceJpeg("cuda:0")
    for name in PHOTOS:
        image = photo(name)
        # without subsampled colors, which nvJPEG interpolates in another way
        full = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        data = cv2.imencode(".jpg", image, full)[1].tobytes()
        want = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(decode, [data] * 8))
        for pixels in found:
            assert pixels.shape == want.shape
            assert pixels.flags.c_contiguous
            np.testing.assert_array_equal(pixels, found[0])
            assert np.abs(pixels.astype(int) - want).max() <= 4


@pytest.mark.parametrize("shape", [(160, 213), (800, 1067)], ids=["smaller", "larger"])
def test_resized_is_within_one_level_of_pillow(shape: tuple[int, int]) -> None:
    image = photo("coffee")
    want = np.asarray(Image.fromarray(image).resize(shape[::-1], Image.Resampling.BILINEAR))
    there = torch.from_numpy(image).permute(2, 0, 1).to("cuda:0")
    found = resize(there, shape).permute(1, 2, 0).cpu().numpy()
    assert np.abs(found - want.astype(int)).max() <= 1


def test_memory_is_given_back() -> None:
    before = torch.cuda.memory_allocated()
    model = RandomModel(ARCHITECTURES["faster_rcnn"])
    with Detectron2(model, "auto") as runnable:
        assert runnable.device == "cuda:0"
        assert torch.cuda.memory_allocated() > before + 50e6
        runnable.predict([Frame(photo("coffee"), "x")])
    model.forget()
    assert torch.cuda.memory_allocated() <= before + 1e6


def test_devices_are_named() -> None:
    assert resolve_device("cuda") == "cuda:0"
    with pytest.raises(DeviceError, match="Available: cpu, cuda:0"):
        resolve_device("cuda:77")
