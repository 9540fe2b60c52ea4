"""A source of assets with several frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from pipeline.records import Frame
from pipeline.system.files import sha256_file


@dataclass
class Stack:
    """A TIFF with several pages as an asset; each page is a frame."""

    id: str
    path: Path
    time_base: Fraction
    is_still: bool = False

    def fingerprint(self) -> str:
        return sha256_file(self.path)

    def frames(self) -> Iterator[Frame]:
        with Image.open(self.path) as file:
            for i, page in enumerate(ImageSequence.Iterator(file)):
                bgr = np.ascontiguousarray(np.asarray(page.convert("RGB"))[:, :, ::-1])
                yield Frame(bgr, self.id, i, pts=i, time_base=self.time_base)


def stacks(input: str, fps: int = 10) -> list[Stack]:
    """List the TIFFs in a folder."""
    return [Stack(p.name, p, Fraction(1, fps)) for p in sorted(Path(input).glob("*.tif*"))]
