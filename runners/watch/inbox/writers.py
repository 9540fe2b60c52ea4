"""Detects files that are still open for writing, as far as this machine can know."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import signal
import stat
from contextlib import suppress
from pathlib import Path

from pipeline.system.files import file_identity

_FLAGS = re.compile(r"flags:\s*([0-7]+)")
# On these file systems the kernel knows only the open files of this machine, and may refuse leases
# for other reasons:
# 9P, AFS, AFS (kernel), Ceph, CIFS, Coda, Lustre, NFS, SMB, SMB 2
_REMOTE = frozenset((
    0x01021997, 0x5346414F, 0x6B414653, 0x00C36400, 0xFF534D42, 0x73757245, 0x0BD00BD0, 0x6969,
    0x517B, 0xFE534D42,
))  # fmt: skip


class WriterCheck:
    """Checks whether files are open for writing. Create one per scan: /proc is read only once.

    The kernel grants a read lease only while no process has the file open for writing. A lease
    requires the file's owner or ``CAP_LEASE``, and a local file system. Without a lease, the open
    files of all visible processes are checked: those of the same user, or all for root.
    """

    def __init__(self) -> None:
        self._open: frozenset[tuple[int, int]] | None = None

    def is_open_for_writing(self, file: int | str | os.PathLike[str]) -> bool:
        """Return whether a process is known to have a file open for writing.

        Args:
            file: A path, or a descriptor that is open for reading only.
        """
        if isinstance(file, int):
            return self._is_open(file)
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # reading the file will report why
            return False
        try:
            return self._is_open(descriptor)
        finally:
            os.close(descriptor)

    def _is_open(self, descriptor: int) -> bool:
        answer = _by_lease(descriptor)
        if answer is not None:
            return answer
        if self._open is None:
            self._open = _open_for_writing()
        status = os.fstat(descriptor)
        return file_identity(status) in self._open


def _by_lease(descriptor: int) -> bool | None:
    if not hasattr(fcntl, "F_SETLEASE") or _is_remote(descriptor):
        return None
    try:
        # A process that opens the file for writing now is blocked until the lease is released, and
        # the kernel sends a signal: SIGURG, which is ignored; the default signal ends the process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as exc:
        return True if exc.errno == errno.EAGAIN else None
    with suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _is_remote(descriptor: int) -> bool:
    kind = (ctypes.c_long * 32)()  # struct statfs, whose first field is the type
    if ctypes.CDLL(None).fstatfs(descriptor, kind):
        return True
    return kind[0] & 0xFFFFFFFF in _REMOTE


def _open_for_writing() -> frozenset[tuple[int, int]]:
    """Return the identity of every regular file that a process has open for writing."""
    found = set()
    with suppress(OSError):
        for process in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
            with suppress(OSError):
                for number in os.listdir(f"/proc/{process}/fd"):  # noqa: PTH208
                    with suppress(OSError):
                        status = os.stat(f"/proc/{process}/fd/{number}")  # noqa: PTH116
                        if stat.S_ISREG(status.st_mode) and _may_write(process, number):
                            found.add(file_identity(status))
    return frozenset(found)


def _may_write(process: str, number: str) -> bool:
    flags = _FLAGS.search(Path(f"/proc/{process}/fdinfo/{number}").read_text())
    return flags is not None and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY
