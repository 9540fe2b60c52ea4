"""File names are UTF-8 in every locale, so that an input has the same id everywhere."""

from __future__ import annotations

import os
import sys


def ensure_utf8() -> None:
    """Start this command again in Python's UTF-8 mode, if its locale has another encoding.

    Python reads names of files, arguments and text in the encoding of the locale; where that is
    ASCII or Latin-1, ids of inputs and their order, and so the results, would be others. For the C
    and POSIX locales Python does so itself, unless PYTHONUTF8 forbids it.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
