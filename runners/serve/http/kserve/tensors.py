"""The tensors of the Open Inference Protocol, in JSON and as binary data.

A body with binary tensors is a JSON header, whose length is in ``Inference-Header-Content-Length``,
followed by the bytes of the tensors whose ``binary_data_size`` the header gives, in its order.
"""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.encoding import floats

INPUT = "image"
HEADER_LENGTH = "Inference-Header-Content-Length"
LENGTH = struct.Struct("<I")  # precedes each element of binary BYTES
_DTYPES = {"FP32": "<f4", "INT64": "<i8"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """An output.

    Attributes:
        name: Its name.
        datatype: FP32, INT64 or BYTES.
        shape: Its shape.
        data: An array of that type; for BYTES, its elements.
        is_text: Whether BYTES are UTF-8; in JSON, others are base64.
    """

    name: str
    datatype: str
    shape: Sequence[int]
    data: NDArray[Any] | list[bytes]
    is_text: bool = True

    def binary(self) -> bytes:
        """Return the bytes that follow the JSON."""
        if isinstance(self.data, np.ndarray):
            return self.data.astype(_DTYPES[self.datatype]).tobytes()
        return b"".join(LENGTH.pack(len(element)) + element for element in self.data)

    def plain(self) -> list[Any]:
        """Return the elements in row-major order for JSON; not a number is ``None``."""
        if isinstance(self.data, np.ndarray):
            flat = self.data.ravel()
            return list(floats(flat) if flat.dtype.kind == "f" else flat.tolist())
        return [e.decode() if self.is_text else b64encode(e).decode() for e in self.data]


def write_response(
    head: dict[str, Any], tensors: Sequence[Tensor], binary: set[str] | None
) -> tuple[bytes, int | None]:
    """Return a body, and the length of its JSON if binary tensors follow.

    Args:
        head: What precedes the outputs.
        tensors: The outputs.
        binary: The names of those whose data follows the JSON; ``None`` for all.
    """
    outputs, parts = [], []
    for tensor in tensors:
        output: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        if binary is None or tensor.name in binary:
            parts.append(tensor.binary())
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            output["data"] = tensor.plain()
        outputs.append(output)
    text = json.dumps(head | {"outputs": outputs}, allow_nan=False).encode()
    return b"".join([text, *parts]), len(text) if parts else None
