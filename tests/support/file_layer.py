"""The file operations of a run below one folder: seen, and made to fail, one by one.

Put in from the tests. Not seen is what SQLite does: its own tests are better than these.
"""

from __future__ import annotations

import builtins
import io
import itertools
import os
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

Before = Callable[[str, str], None]
Note = Callable[[tuple[Any, ...]], None]


def temporary(name: str) -> str:
    """Part of the name of the file that becomes ``name``."""
    from hashlib import sha256

    return f".{sha256(os.fsencode(name)).hexdigest()[:16]}."


class Layer:
    """A layer between d2run and the file system.

    Args:
        root: Operations elsewhere pass unseen.
        before: Called with the operation's name and the path below ``root``; may raise.
        note: Called with each operation once it is done: ``("create", path, file)``,
            ``("write", file, offset, bytes)``, ``("truncate", file, size)``, ``("fsync", file)``,
            ``("rename", from, to)``, ``("unlink", path)``, ``("mkdir", path)``,
            ``("syncdir", path)``. A file is its number, or its path if it was there before.
    """

    def __init__(
        self, root: Path, before: Before = lambda *_: None, note: Note = lambda _: None
    ) -> None:
        self.root, self.before, self.note = str(root), before, note
        self.lock = threading.RLock()
        self.files: dict[str, int | str] = {}  # by path
        self.open: dict[int, tuple[str, int | str]] = {}  # by descriptor
        self.numbers = itertools.count(1)

    def below(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The path below the root, ``None`` if it is elsewhere."""
        text = os.fsdecode(path)
        if dir_fd is not None:
            text = f"{Path(f'/proc/self/fd/{dir_fd}').readlink()}/{text}"
        text = os.path.abspath(text)  # noqa: PTH100 - a link is no folder
        if text == self.root:
            return ""
        return text[len(self.root) + 1 :] if text.startswith(f"{self.root}/") else None

    def opened(self, fd: int, path: str, existed: bool, cut: bool) -> None:
        if not existed:
            self.files[path] = next(self.numbers)
            self.note(("create", path, self.files[path]))
        file = self.files.setdefault(path, path)
        self.open[fd] = path, file
        if existed and cut:
            self.note(("truncate", file, 0))

    def install(self) -> None:
        layer, raw = self, {name: getattr(os, name) for name in NAMES}
        plain_open = builtins.open

        def os_open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            below = layer.below(path, dir_fd)
            if below is None:
                return raw["open"](path, flags, mode, dir_fd=dir_fd)
            with layer.lock:
                existed = os.path.lexists(f"{layer.root}/{below}")
                layer.before("open", below)
                fd = raw["open"](path, flags, mode, dir_fd=dir_fd)
                if flags & os.O_DIRECTORY:
                    layer.open[fd] = below, "/"
                else:
                    layer.opened(fd, below, existed, bool(flags & os.O_TRUNC))
                return fd

        def seen(fd: int, operation: str) -> tuple[str, Any] | None:
            if found := layer.open.get(fd):
                layer.before(operation, found[0])
            return found

        def write(fd: int, data: Any) -> int:
            with layer.lock:
                found = seen(fd, "write")
                n = raw["write"](fd, data)
                if found:
                    at = os.lseek(fd, 0, os.SEEK_CUR) - n
                    layer.note(("write", found[1], at, bytes(data)[:n]))
                return n

        def ftruncate(fd: int, size: int) -> None:
            with layer.lock:
                found = seen(fd, "truncate")
                raw["ftruncate"](fd, size)
                if found:
                    layer.note(("truncate", found[1], size))

        def fsync(fd: int) -> None:
            with layer.lock:
                found = seen(fd, "fsync")
                raw["fsync"](fd)
                if found:
                    path, file = found
                    layer.note(("syncdir", path) if file == "/" else ("fsync", file))

        def close(fd: int) -> None:
            with layer.lock:
                layer.open.pop(fd, None)
                raw["close"](fd)

        def replace(src: Any, dst: Any, *, src_dir_fd: Any = None, dst_dir_fd: Any = None) -> None:
            old, new = layer.below(src, src_dir_fd), layer.below(dst, dst_dir_fd)
            with layer.lock:
                if new is not None:
                    layer.before("rename", new)
                raw["replace"](src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
                if old is not None and new is not None:
                    layer.files[new] = layer.files.pop(old, old)
                    layer.note(("rename", old, new))

        def on_path(name: str) -> Callable[..., None]:
            def call(path: Any, *args: Any, dir_fd: int | None = None, **more: Any) -> None:
                below = layer.below(path, dir_fd)
                with layer.lock:
                    if below is not None:
                        layer.before(name, below)
                    raw[name](path, *args, dir_fd=dir_fd, **more)
                    if below is not None:
                        layer.files.pop(below, None)
                        layer.note((name if name != "rmdir" else "unlink", below))

            return call

        class File(FileIO):
            def __init__(self, file: Any, mode: str = "r", *args: Any, **options: Any) -> None:
                if isinstance(file, int):
                    super().__init__(file, mode, *args, **options)
                    return
                below = layer.below(file)
                with layer.lock:
                    existed = os.path.lexists(file)
                    if below is not None and set(mode) & set("wax+"):
                        layer.before("open", below)
                    super().__init__(file, mode, *args, **options)
                    if below is not None:
                        layer.opened(self.fileno(), below, existed, "w" in mode)

            def write(self, data: Any) -> int:
                with layer.lock:
                    found = seen(self.fileno(), "write")
                    n = super().write(data)
                    if found:
                        layer.note(("write", found[1], self.tell() - n, bytes(data)[:n]))
                    return n

            def truncate(self, size: int | None = None) -> int:
                with layer.lock:
                    found = seen(self.fileno(), "truncate")
                    done = super().truncate(size)
                    if found:
                        layer.note(("truncate", found[1], done))
                    return done

            def close(self) -> None:
                if not self.closed:
                    layer.open.pop(self.fileno(), None)
                super().close()

        def open_(
            file: Any, mode: str = "r", buffering: int = -1, *args: Any, **options: Any
        ) -> Any:
            known = file in layer.open if isinstance(file, int) else layer.below(file) is not None
            if not known or "b" not in mode or not set(mode) & set("wax+"):
                return plain_open(file, mode, buffering, *args, **options)
            raw_file = File(file, mode.replace("b", ""), options.get("closefd", True))
            if buffering == 0:
                return raw_file
            kind = io.BufferedRandom if "+" in mode else io.BufferedWriter
            return kind(raw_file)  # type: ignore[type-var]

        os.open, os.write, os.ftruncate, os.fsync = os_open, write, ftruncate, fsync  # type: ignore[assignment]
        os.close, os.replace = close, replace  # type: ignore[assignment]
        for name in ("unlink", "mkdir", "rmdir"):
            setattr(os, name, on_path(name))
        builtins.open = io.open = open_  # type: ignore[assignment]
        from runners.rundir import journal

        journal.FileIO = File  # type: ignore[misc]


NAMES = (
    "open", "write", "ftruncate", "fsync", "close", "replace", "unlink", "mkdir", "rmdir",
)  # fmt: skip
