"""Converts a frame to a model's input: resized as ``DefaultPredictor`` does, on the device."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import InferenceError
from pipeline.records import Frame

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True, eq=False)
class Prepared:
    """One frame's input, uint8, on its way to the device.

    Attributes:
        shape: ``(height, width)`` of the model's input in pixels; equal shapes can share a forward.
        size: ``(height, width)`` of the frame in pixels.
        image: uint8 ``(3, h, w)`` in the model's color order, of ``shape``, or of ``size`` if the
            device resizes it.
        uploaded: CUDA event of the copy to the device; ``None`` if the image is still on the host,
            because the device had no memory left.
    """

    shape: tuple[int, int]
    size: tuple[int, int]
    image: Tensor
    uploaded: Any = None

    @property
    def nbytes(self) -> int:
        """Size of the image in bytes."""
        return int(self.image.nbytes)


@dataclass(slots=True)
class Preprocess:
    """Resizes frames and starts their copy to the device; on any thread.

    Attributes:
        cfg: Detectron2's ``CfgNode``, of which ``INPUT`` is used.
        device: Torch's name of the device.
        resize_on_device: Whether the device resizes, instead of Pillow.
        stream: CUDA stream of the copies, so that they overlap with the model.
    """

    cfg: Any
    device: str
    resize_on_device: bool = False
    stream: Any = None

    def __post_init__(self) -> None:
        if self.device.startswith("cuda"):
            import torch

            self.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def __call__(self, frame: Frame) -> Prepared:
        """Return the frame's input.

        Raises:
            InferenceError: The frame is too narrow: at the model's size, a side has no pixel.
        """
        import torch
        from detectron2.data.transforms import ResizeShortestEdge

        short, longest = self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST
        shape = frame.size
        if short and 0 in (shape := ResizeShortestEdge.get_output_shape(*shape, short, longest)):
            height, width = frame.size
            raise InferenceError(
                f"{width}x{height} px is too narrow: resized to the model's maximum of {longest} "
                "px, the shorter side has less than one pixel"
            )
        pixels = frame.image if self.cfg.INPUT.FORMAT == "BGR" else frame.image[:, :, ::-1]
        if not self.resize_on_device:
            augmentation = ResizeShortestEdge([short, short], longest)
            pixels = augmentation.get_transform(pixels).apply_image(pixels)
        # in memory: height, width, channel, as in DefaultPredictor, because the choice of the
        # convolutions' kernels, and so the last digits, depends on the strides
        image = torch.from_numpy(np.array(pixels, order="C")).permute(2, 0, 1)
        prepared = Prepared(shape, frame.size, image)
        return prepared if self.stream is None else self._upload(prepared)

    def _upload(self, prepared: Prepared) -> Prepared:
        import torch

        pinned = prepared.image.pin_memory()
        with torch.cuda.stream(self.stream), suppress(torch.OutOfMemoryError):
            prepared.image = pinned.to(self.device, non_blocking=True)
            prepared.uploaded = self.stream.record_event()
        return prepared


def prepare_unresized(frame: Frame) -> Prepared:
    """Return a frame's input without resizing."""
    import torch

    image = torch.from_numpy(np.array(frame.image, order="C")).permute(2, 0, 1)
    return Prepared(frame.size, frame.size, image)


def model_input(prepared: Prepared, device: str) -> dict[str, Any]:
    """Return a model's input: float32 ``(3, h, w)`` in [0, 255], and the frame's size.

    On CUDA, the device waits for the end of the copy; the calling thread does not.
    """
    import torch

    image = prepared.image.to(device)
    if prepared.uploaded is not None:
        stream = torch.cuda.current_stream(image.device)
        stream.wait_event(prepared.uploaded)
        image.record_stream(stream)  # or its memory would be reused by the next copy too early
    if image.shape[1:] != prepared.shape:
        image = resize(image, prepared.shape)
    height, width = prepared.size
    return {"image": image.float(), "height": height, "width": width}


def resize(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Resize like Pillow's ``BILINEAR``, on any device; pixels differ by at most 1.

    Args:
        image: uint8 ``(3, h, w)``.
        shape: ``(height, width)`` of the result in pixels.

    Returns:
        float32 ``(3, *shape)`` of whole numbers in [0, 255].
    """
    from torch.nn import functional

    floats = image[None].float()
    new = functional.interpolate(floats, shape, mode="bilinear", antialias=True)
    return new[0].round_().clamp_(0, 255)
