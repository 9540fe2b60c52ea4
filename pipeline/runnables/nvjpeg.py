"""Decodes JPEGs on a GPU, for hosts whose CPU decodes too slowly for the GPU."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import ConfigError, DecodeError
from pipeline.system.devices import translate_device_errors


@dataclass(slots=True)
class DeviceJpeg:
    """Decodes JPEGs on a device with torchvision's ``decode_jpeg``, which is nvJPEG on CUDA.

    Pixels differ slightly from Pillow's, because the color of subsampled images is interpolated
    differently. Damage is not detected, so ``decode_image`` checks for it before.

    Attributes:
        device: Torch's name of the device. On ``cpu``, libjpeg decodes the same pixels as Pillow.

    Raises:
        ConfigError: This torchvision has no decoder for the device.
    """

    device: str
    _decode: Any = field(init=False)
    _stream: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        try:
            # deprecated since torchvision 0.29; torchcodec replaces it, but is not a dependency yet
            from torchvision.io import decode_jpeg
        except ImportError as exc:
            raise ConfigError(f"decode.jpeg=nvjpeg: torchvision has no decoder: {exc}") from exc
        self._decode = decode_jpeg
        if self.device.startswith("cuda"):
            import torch

            # its own stream, because copies would otherwise wait for the model's forwards
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        try:
            self(_small())
        except RuntimeError as exc:  # otherwise Pillow would silently decode every file
            raise ConfigError(f"decode.jpeg=nvjpeg: {self.device} cannot decode: {exc}") from exc

    def __call__(self, data: bytes) -> NDArray[np.uint8]:
        """Decode an image; on any thread.

        Args:
            data: The content of the file.

        Returns:
            uint8 ``(H, W, 3)``, RGB, as stored: the EXIF orientation is not applied.

        Raises:
            RuntimeError: The decoder does not support the file.
            DecodeError: The device has no memory left. There is no fallback to Pillow: free memory
                depends on other inputs, and the pixels must not.
            DeviceLostError: The device failed permanently.
        """
        import torch

        stored = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        stream = torch.cuda.stream(self._stream) if self._stream else nullcontext()
        try:
            with translate_device_errors(self.device), stream:
                found = self._decode(stored, "RGB", device=self.device)
                # transposed on the device in microseconds; on the host it takes milliseconds
                return np.asarray(found.permute(1, 2, 0).contiguous().cpu().numpy())
        except torch.OutOfMemoryError as exc:
            raise DecodeError(f"{self.device} has no memory left for decoding") from exc


def _small() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    return buffer.getvalue()
