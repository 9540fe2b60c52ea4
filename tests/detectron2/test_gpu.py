"""On a CUDA device: the same results as DefaultPredictor there, and the memory given back."""

from __future__ import annotations

import pytest
from random_model import ARCHITECTURES, PHOTOS, RandomModel, assert_equal, photo, reference

from pipeline.devices import resolve_device
from pipeline.errors import DeviceError
from pipeline.runnables.detectron2 import Detectron2
from pipeline.types import Frame

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.detectron2,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parity(architecture: str) -> None:
    model = RandomModel(ARCHITECTURES[architecture])
    images = [photo(name) for name in PHOTOS]
    with Detectron2(model, "cuda:0") as runnable:
        got = [runnable.predict([Frame(image, "x")])[0] for image in images]
        expected = reference(model, images, device="cuda:0")
    for predictions, want in zip(got, expected, strict=True):
        assert_equal(predictions, want, box_px=1e-3)


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
    with pytest.raises(DeviceError, match="there is: cpu, cuda:0"):
        resolve_device("cuda:77")
