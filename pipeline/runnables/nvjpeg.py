"""JPEGs on the decoder of a GPU, for hosts whose cores cannot keep up with it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import ConfigError, DecodeError
from pipeline.system.devices import told_if_lost


@dataclass(slots=True)
class DeviceJpeg:
    """Decodes JPEGs on a device: torchvision's ``decode_jpeg``, which on CUDA is nvJPEG.

    Its pixels are not quite Pillow's: it spreads the color of subsampled images in another way. It
    does not notice damage, so ``decode_image`` checks for that before.

    Attributes:
        device: Torch's name of it; on ``cpu`` it is libjpeg, to the bit as Pillow.

    Raises:
        ConfigError: This torchvision has no decoder, or not for the device.
    """

    device: str
    _decode: Any = field(init=False)
    _stream: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        try:
            # deprecated since torchvision 0.29 in favour of torchcodec, which is no dependency yet
            from torchvision.io import decode_jpeg
        except ImportError as exc:
            raise ConfigError(f"decode.jpeg=nvjpeg: torchvision has no decoder: {exc}") from exc
        self._decode = decode_jpeg
        if self.device.startswith("cuda"):
            import torch

            # beside the model's, whose forwards a copy would otherwise wait for
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        try:
            self(_small())
        except RuntimeError as exc:  # or every file would silently go to Pillow
            raise ConfigError(f"decode.jpeg=nvjpeg: {self.device} cannot: {exc}") from exc

    def __call__(self, data: bytes) -> NDArray[np.uint8]:
        """Return the picture; on any thread.

        Args:
            data: The whole file.

        Returns:
            uint8 ``(H, W, 3)``, RGB, as it is stored: not turned by its EXIF orientation.

        Raises:
            RuntimeError: It cannot be decoded there.
            DecodeError: There is no memory for it. What decodes it must not hang on that.
            DeviceLostError: The device failed for good.
        """
        import torch

        stored = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        beside = torch.cuda.stream(self._stream) if self._stream else nullcontext()
        try:
            with told_if_lost(self.device), beside:
                found = self._decode(stored, "RGB", device=self.device)
                # transposed there, in microseconds; here it would take milliseconds
                return np.asarray(found.permute(1, 2, 0).contiguous().cpu().numpy())
        except torch.OutOfMemoryError as exc:
            raise DecodeError(f"no memory left on {self.device} to decode it") from exc


def _small() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    return buffer.getvalue()
