"""Memory: kept, taken in large pages, and not looked through in vain."""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import os
import sys
from contextlib import suppress

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


def import_for_good(*modules: str) -> None:
    """Import modules, and exclude them and all existing objects from garbage collection.

    Python scans all objects each time their number has grown by a quarter: that is a quarter of the
    time that torch and Detectron2 take to import, and a quarter of a second later on. The exclusion
    ends when the process exits, because libraries check then that their objects were freed.

    Args:
        modules: Their names. If all are imported already, nothing happens.
    """
    if all(name in sys.modules for name in modules):
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for name in modules:
            importlib.import_module(name)
        gc.freeze()
        atexit.unregister(gc.unfreeze)  # once is enough, however often this is called
        atexit.register(gc.unfreeze)
    finally:
        if was_enabled:
            gc.enable()
