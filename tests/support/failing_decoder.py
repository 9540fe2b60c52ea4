"""A decoder process like d2run's own, but a file that says ``fault:segfault`` gets one.

``python failing_decoder.py DESCRIPTOR MEMORY_MB PARENT``, with d2run on PYTHONPATH.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.sources.decode import decoder
from pipeline.sources.decode.image import decode_image


def faulty(data: bytes, **options: Any) -> Any:
    if not data.startswith(b"fault:"):
        return decode_image(data, **options)
    fault, _, argument = data.removeprefix(b"fault:").partition(b" ")
    if argument:  # a file that is there from the second time on
        if Path(os.fsdecode(argument)).exists():
            return decode_image(Path(os.fsdecode(argument)).read_bytes(), **options)
        Path(os.fsdecode(argument) + ".tried").touch()
    FAULTS[fault]()
    raise AssertionError(fault)


def segfault() -> None:
    ctypes.string_at(0)


def exit_() -> None:
    os._exit(3)


def hang() -> None:
    ctypes.PyDLL(None).sleep(3600)  # like C code in a loop: it keeps the GIL


def wait() -> None:
    time.sleep(3600)


def hog() -> None:
    held = []
    while True:
        held.append(bytearray(1 << 20))


def close() -> None:
    os.closerange(3, 64)
    wait()


FAULTS = {
    b"segfault": segfault,
    b"exit": exit_,
    b"hang": hang,
    b"wait": wait,
    b"hog": hog,
    b"close": close,
}

if __name__ == "__main__":
    decoder.decode_image = faulty
    decoder.main(*map(int, sys.argv[1:]))
