"""From a frame to a model's input: resized as ``DefaultPredictor`` does, and put on the device."""

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
        shape: ``(height, width)`` of the model's input in pixels; equal ones may share a forward.
        size: ``(height, width)`` of the frame in pixels.
        image: uint8 ``(3, h, w)`` in the model's colour order; of ``shape``, or of ``size`` where
            the device is to resize it.
        uploaded: On CUDA, an event of the copy that brings ``image`` there; without it the image
            is still here, for want of memory there.
    """

    shape: tuple[int, int]
    size: tuple[int, int]
    image: Tensor
    uploaded: Any = None

    @property
    def nbytes(self) -> int:
        """Of the image."""
        return int(self.image.nbytes)


@dataclass(slots=True)
class Preprocess:
    """Resizes frames and sends them to the device; on any thread.

    Attributes:
        cfg: Detectron2's ``CfgNode``, for ``INPUT``.
        device: Torch's name of the device.
        resize_on_device: Resize there, rather than here with Pillow.
        stream: On CUDA, the stream of the copies, beside that of the model.
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
            InferenceError: The frame is so narrow that nothing of it is left at the model's size.
        """
        import torch
        from detectron2.data.transforms import ResizeShortestEdge

        short, longest = self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST
        shape = frame.size
        if short and 0 in (shape := ResizeShortestEdge.get_output_shape(*shape, short, longest)):
            height, width = frame.size
            raise InferenceError(
                f"{width}x{height} px is too narrow: with its longer side at {longest} px, the "
                "model's most, less than one is left of the shorter"
            )
        pixels = frame.image if self.cfg.INPUT.FORMAT == "BGR" else frame.image[:, :, ::-1]
        if not self.resize_on_device:
            resize = ResizeShortestEdge([short, short], longest)
            pixels = resize.get_transform(pixels).apply_image(pixels)
        # height, width, channel in memory as DefaultPredictor has it: the convolutions' kernels,
        # and with them the last digits, go by the strides
        image = torch.from_numpy(np.array(pixels, order="C")).permute(2, 0, 1)
        prepared = Prepared(shape, frame.size, image)
        return prepared if self.stream is None else self._sent(prepared)

    def _sent(self, prepared: Prepared) -> Prepared:
        import torch

        pinned = prepared.image.pin_memory()
        with torch.cuda.stream(self.stream), suppress(torch.OutOfMemoryError):
            prepared.image = pinned.to(self.device, non_blocking=True)
            prepared.uploaded = self.stream.record_event()
        return prepared


def model_input(prepared: Prepared, device: str) -> dict[str, Any]:
    """Return what Detectron2's models take: float32 ``(3, h, w)`` in [0, 255] and the frame's size.

    On the device's thread, which waits there, not here, for the copy to end.
    """
    import torch

    image = prepared.image.to(device)
    if prepared.uploaded is not None:
        stream = torch.cuda.current_stream(image.device)
        stream.wait_event(prepared.uploaded)
        image.record_stream(stream)  # or its memory would go to the next copy while it is read
    if image.shape[1:] != prepared.shape:
        image = resized(image, prepared.shape)
    height, width = prepared.size
    return {"image": image.float(), "height": height, "width": width}


def resized(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Resize as Pillow's ``BILINEAR`` does, to within one of its 256 levels, on any device.

    Args:
        image: uint8 ``(3, h, w)``.
        shape: Wanted ``(height, width)`` in pixels.

    Returns:
        float32 ``(3, *shape)`` of whole numbers in [0, 255].
    """
    from torch.nn import functional

    floats = image[None].float()
    new = functional.interpolate(floats, shape, mode="bilinear", antialias=True)
    return new[0].round_().clamp_(0, 255)
