"""Settings of the memory allocator and of the garbage collector."""

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
    """Make the C library keep freed memory for reuse, up to 128 MiB per heap.

    By default, glibc returns freed blocks of an image's size to the kernel immediately. Allocating
    their pages again takes a third of the CPU time of decoding. Blocks above 32 MiB, such as a
    model's largest maps, are still returned. Torch, if it is not imported yet, allocates them in
    pages of 2 MiB where the kernel supports them, which takes a sixth of the time. Other C
    libraries do not change.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch
    with suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # its maximum
        libc.mallopt(_M_TRIM_THRESHOLD, 128 << 20)


def import_frozen(*modules: str) -> None:
    """Import modules, and exclude them and all existing objects from garbage collection.

    Python scans all objects each time their number has grown by a quarter. These scans take a
    quarter of the time of importing torch and Detectron2, and 0.25 s each later. The exclusion ends
    when the process exits, because libraries then check that their objects were freed.

    Args:
        modules: Names of the modules. If all are already imported, nothing happens.
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
