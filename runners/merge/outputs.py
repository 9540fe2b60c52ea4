"""Brings the outputs per asset, such as overlays, from the shards into the merged run."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from pipeline.job import Job
from pipeline.recorded.manifest import list_files
from pipeline.system.descriptors import open_to_read, parent_of, remove, status_of
from pipeline.system.files import file_identity, replaced, sync_folder
from runners.merge.shards import ShardRun

# of file systems without hard links, across file systems, and of files with too many names
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)


def link_outputs(job: Job, runs: Iterable[ShardRun]) -> None:
    """Give the files of each shard's sinks their names in the merged run, and make them durable.

    They are hard links where possible, which takes no space, and copies elsewhere. So the shards
    stay as they are. Sinks replace files and never change them, so neither name affects the other.

    Args:
        job: The merged job.
        runs: The shards.

    Raises:
        OSError: A file cannot be read or written.
        OutputError: A symbolic link is in the way.
    """
    names = _directories(job)
    folders = set[PurePosixPath]()
    for run in runs:
        for name, status in list_files(run.path, names):
            _link(run.path / name, job.output / name, status)
            folders.update(PurePosixPath(name).parents)
    for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        sync_folder(job.output / folder)


def _directories(job: Job) -> Sequence[str]:
    """Return the directories that sinks own, without those that are in another one."""
    names = {name for sink in job.sinks.values() for name in sink.outputs if name.endswith("/")}
    return sorted(
        name for name in names if not any(name != n and name.startswith(n) for n in names)
    )


def _link(old: Path, new: Path, status: os.stat_result) -> None:
    known = status_of(new)
    if known is not None:
        is_copy = (known.st_size, known.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
        if file_identity(known) == file_identity(status) or is_copy:
            return  # of a merge that was interrupted
        remove(new)
    try:
        with parent_of(old) as (source, name), parent_of(new, make=True) as (target, new_name):
            os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as exc:
        if exc.errno not in _NO_LINK:
            raise
        _copy(old, new, status)


def _copy(old: Path, new: Path, status: os.stat_result) -> None:
    with open_to_read(old) as source, replaced(new) as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.utime(target.fileno(), ns=(status.st_mtime_ns, status.st_mtime_ns))
