"""Brings what the sinks wrote, such as overlays, from the shards into the merged run."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from pipeline.errors import ConfigError
from pipeline.job import Job
from pipeline.sinks.webhook import Webhook
from pipeline.system.descriptors import open_to_read, parent_of, remove, status_of
from pipeline.system.files import TEMPORARY, file_identity, sync_folder
from pipeline.system.output_folder import OutputFolder
from runners.merge.shards import ShardRun

# no hard links on this file system, or across two of them, or no more to this file
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)


def check_files(job: Job, runs: Sequence[ShardRun]) -> None:
    """Check that a file that a sink writes once per run is the same in all shards.

    Raises:
        ConfigError: It is not; names the sink and the file.
        OutputError: A manifest is damaged.
    """
    for sink, name in _run_files(job):
        digests = {run.digests[name]: run for run in runs if name in run.digests}
        if len(digests) > 1:
            one, other = list(digests.values())[:2]
            raise ConfigError(
                f"sink.{sink} writes {name} over the whole run, and that of {other} differs from "
                f"shard {one.shard}, so they cannot be merged; make the sink an aggregate, or "
                "remove it and run all shards again"
            )


def undelivered(job: Job, runs: Iterable[ShardRun]) -> Iterator[str]:
    """Yield a warning for each shard with files that a webhook has not delivered.

    They stay with their shard: a second name would be posted by a second process.
    """
    for sink, part in job.sinks.items():
        for run in runs if isinstance(part, Webhook) else ():
            if n := sum(name.endswith(".jsonl") for name, _ in _files(run.path, part.outputs)):
                yield (
                    f"{n} inputs of {run} are not delivered by sink.{sink}; to post them, run it "
                    f"again with runner.shard={run.shard}"
                )


def link_outputs(job: Job, runs: Iterable[ShardRun]) -> None:
    """Give the files of each shard's sinks their names in the merged run, and make them durable.

    They are hard links where possible, which take no space, and copies elsewhere, so the shards
    stay as they are. Sinks replace files and never change them: neither name affects the other.
    Symbolic links, as to the images of a YOLO data set, are created again.

    Args:
        job: The merged job.
        runs: The shards.

    Raises:
        OSError: A file cannot be read or written.
        OutputError: A symbolic link is in the way.
    """
    names = [*_directories(job), *(name for _, name in _run_files(job))]
    output, folders = OutputFolder(job.output), set[PurePosixPath]()
    for run in runs:
        for name, status in _files(run.path, names):
            old, new = run.path / name, job.output / name
            if stat.S_ISLNK(status.st_mode):
                here, there = (os.path.realpath(path.parent) for path in (old, new))
                target = os.path.join(here, os.readlink(old))  # noqa: PTH115, PTH118
                output.link(name, os.path.relpath(target, there))
            elif not _link(old, new, status):
                _copy(old, output, name, status)
            folders.update(PurePosixPath(name).parents)
    for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        sync_folder(job.output / folder)


def _run_files(job: Job) -> Iterator[tuple[str, str]]:
    """Yield the files that sinks write once per run, each with its sink."""
    for sink, part in job.sinks.items():
        if sink not in job.aggregates:  # which are built over all shards
            yield from ((sink, name) for name in part.outputs if not name.endswith("/"))


def _directories(job: Job) -> list[str]:
    """Return the directories that sinks own, without those that are in another one."""
    sinks = [sink for sink in job.sinks.values() if not isinstance(sink, Webhook)]
    names = {name for sink in sinks for name in sink.outputs if name.endswith("/")}
    return sorted(
        name for name in names if not any(name.startswith(each) for each in names - {name})
    )


def _files(root: Path, names: Iterable[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files and symbolic links among the outputs, each with its status."""
    for name in names:
        if not name.endswith("/"):
            if (status := status_of(root / name)) is not None:
                yield name, status
            continue
        for directory, _, files in os.walk(root / name):
            inner = os.path.relpath(directory, root)
            for each in files:
                if not (each.startswith(".") and each.endswith(TEMPORARY)):
                    yield f"{inner}/{each}", os.lstat(os.path.join(directory, each))  # noqa: PTH118


def _link(old: Path, new: Path, status: os.stat_result) -> bool:
    """Give a file a second name; return whether that is possible."""
    known = status_of(new)
    if known is not None:
        is_copy = (known.st_size, known.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
        if file_identity(known) == file_identity(status) or is_copy:
            return True  # of a merge that was interrupted
        remove(new)
    try:
        with parent_of(old) as (source, name), parent_of(new, make=True) as (target, new_name):
            os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as exc:
        if exc.errno not in _NO_LINK:
            raise
        return False
    return True


def _copy(old: Path, output: OutputFolder, name: str, status: os.stat_result) -> None:
    target = output.open(name)
    with open_to_read(old) as source:
        shutil.copyfileobj(source, target, 1 << 20)
    target.flush()
    os.utime(target.fileno(), ns=(status.st_mtime_ns, status.st_mtime_ns))
    output.commit(name)
