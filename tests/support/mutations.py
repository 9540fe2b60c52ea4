"""Damage images at random and decode them: ``mutations.py FORMAT COUNT``.

A process of its own, for a decoder that crashes or hangs takes its process along.
"""

from __future__ import annotations

import faulthandler
import random
import struct
import sys
from collections import Counter
from io import BytesIO

import numpy as np
from PIL import Image

from pipeline.errors import DecodeError
from pipeline.sources import decode_image

HANG_S = 10


def seed_picture(kind: str) -> bytes:
    name, _, compression = kind.partition("/")
    y, x = np.mgrid[0:96, 0:128]
    noise = np.random.default_rng(0).integers(0, 64, (96, 128))
    image = Image.fromarray(np.stack([2 * x, 2 * y, x + noise], 2).astype(np.uint8))
    tags = Image.Exif()
    tags[274] = 6
    options = {"JPEG": {"exif": tags, "progressive": True}, "PNG": {"exif": tags}}.get(name, {})
    if compression:
        options = {"compression": compression}
    buffer = BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def spoilt(rng: random.Random, whole: bytes) -> bytes:
    data = bytearray(whole)
    at = rng.choice([rng.randrange(len(data)), rng.randrange(min(200, len(data)))])  # or the header
    match rng.choice(["flip", "flip", "cut", "lie", "lie", "drop", "repeat", "zero"]):
        case "flip":
            for _ in range(rng.randrange(1, 9)):
                data[rng.choice([at, rng.randrange(len(data))])] ^= 1 << rng.randrange(8)
        case "cut":
            del data[at:]
        case "lie":  # about a length, an offset, a count, a size
            number = rng.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
            layout = rng.choice(["<I", ">I"] if number > 0xFFFF else ["<H", ">H", "<I", ">I"])
            data[at : at + struct.calcsize(layout)] = struct.pack(layout, number)
        case "drop":
            del data[at : at + rng.randrange(1, 64)]
        case "repeat":
            data[at:at] = data[at : at + rng.randrange(1, 64)]
        case "zero":
            data[at:] = bytes(len(data) - at)
    return bytes(data)


def main(kind: str, count: int) -> None:
    rng = random.Random(f"{kind} 1")
    whole = seed_picture(kind)
    fates: Counter[str] = Counter()
    for i in range(count):
        data = spoilt(rng, whole)
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        try:
            image = decode_image(data)
        except DecodeError:
            fates["refused"] += 1
        except BaseException as exc:
            raise SystemExit(f"mutation {i}: {type(exc).__name__}: {exc}") from exc
        else:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise SystemExit(f"mutation {i}: {image.dtype} {image.shape}")
            fates["decoded"] += 1
        faulthandler.cancel_dump_traceback_later()
    print(fates["decoded"], fates["refused"])  # noqa: T201


if __name__ == "__main__":
    faulthandler.enable()
    main(sys.argv[1], int(sys.argv[2]))
