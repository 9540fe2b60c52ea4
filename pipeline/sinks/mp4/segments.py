"""Segments of encoded frames on the disk: what a killed run has encoded need not be encoded again.

A segment is a file: one line of JSON, then the packets. It names the frames that it was made of by
their digests, so a segment is used again only for exactly the same frames.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import OutputError
from pipeline.sinks.mp4.encoder import Encoded, Settings
from pipeline.system.descriptors import open_to_read


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment on the disk.

    Attributes:
        path: The file.
        digests: Digest of each frame.
        n_frames: How many of its frames belong to the video; the others are to be ignored.
    """

    path: Path
    digests: Sequence[str]
    n_frames: int

    def packets(self) -> Iterator[Encoded]:
        """Read the packets of the frames.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is damaged.
        """
        with open_to_read(self.path) as file:
            header = json.loads(file.readline())
            for pts, is_key, length in header["packets"][: self.n_frames]:
                data = file.read(length)
                if len(data) < length:
                    raise ValueError("segment without its end")
                yield Encoded(pts, is_key, data)


def digest(image: NDArray[np.uint8], pts: int) -> str:
    """Return what identifies a frame: its pixels and its timestamp."""
    hashed = blake2b(image.data.cast("B"), digest_size=16)
    hashed.update(f"{image.shape} {pts}".encode())
    return hashed.hexdigest()


def packed(settings: Settings, digests: Sequence[str], packets: Sequence[Encoded]) -> bytes:
    """Return the content of a segment's file."""
    payload = b"".join(packet.data for packet in packets)
    header = {
        "settings": settings.as_json(),
        "digests": list(digests),
        "packets": [(packet.pts, packet.is_key, len(packet.data)) for packet in packets],
        "sha256": sha256(payload).hexdigest(),
    }
    return json.dumps(header).encode("ascii") + b"\n" + payload


def intact(path: Path, settings: Settings) -> Segment | None:
    """Return the segment in a file; ``None`` if there is none, or one of other settings."""
    try:
        with open_to_read(path) as file:
            header: dict[str, Any] = json.loads(file.readline())
            is_whole = sha256(file.read()).hexdigest() == header["sha256"]
            if not is_whole or header["settings"] != settings.as_json():
                return None
            return Segment(path, header["digests"], len(header["digests"]))
    except (OSError, OutputError, ValueError, KeyError, TypeError):
        return None
