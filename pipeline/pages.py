"""Memory: kept and taken in large pages; when Python looks through it."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_pages() -> None:
    """Have this process keep large blocks of memory that are freed, up to 128 MiB a heap.

    glibc gives blocks of a picture's size back at once; to get each page of them anew takes a
    third of the processor's time of decoding. Elsewhere nothing happens. Blocks above 32 MiB, such
    as a model's largest maps, are given back all the same; torch, if it is not imported yet, takes
    its own in pages of 2 MiB, where the kernel has them: a sixth of the time.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch
    with suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes
        libc.mallopt(_M_TRIM_THRESHOLD, 128 << 20)


@contextmanager
def uncollected() -> Iterator[None]:
    """Have Python look for no garbage while the block runs, nor later among what is made in it.

    It looks through all objects each time their number has grown by a quarter, and finds nothing
    while libraries are imported: a quarter of the time that torch and Detectron2 take.
    ``gc.unfreeze`` has it look again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
