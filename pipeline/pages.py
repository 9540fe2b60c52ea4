"""Keep the memory of pictures, rather than hand it back to the kernel for each."""

from __future__ import annotations

import ctypes
from contextlib import suppress

# of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_pages() -> None:
    """Have this process keep large blocks of memory that are freed, up to 128 MiB a heap.

    glibc gives blocks of a picture's size back at once; to get each page of them anew takes a
    third of the processor's time of decoding. Elsewhere nothing happens.
    """
    with suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes
        libc.mallopt(_M_TRIM_THRESHOLD, 128 << 20)
