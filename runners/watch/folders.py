"""The folders of a watch: the one that is watched, and those that files are moved to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.job import Job
from pipeline.protocols import LiveSource
from pipeline.sources import Images
from pipeline.sources.decode.options import FrameOptions
from pipeline.sources.kinds import Kinds
from pipeline.system.files import expanded
from runners.watch.options import WatchOptions


@dataclass(frozen=True)
class WatchFolders:
    """The folders of a watch.

    Attributes:
        root: The watched folder.
        done: Destination of files whose result is committed.
        failed: Destination of files that failed.
    """

    root: Path
    done: Path
    failed: Path


def watch_folders(job: Job, options: WatchOptions) -> WatchFolders:
    """Return the folders of a watch, checked.

    Raises:
        ConfigError: ``input`` is not a folder, or a destination is the watched folder, or is in it
            and behind a symbolic link, which anybody with write access to the folder could have
            planted there.
    """
    given = job.config["input"]
    if given is None:
        raise ConfigError("no input: runner=watch needs input=PATH of a folder")
    if isinstance(given, list):
        raise ConfigError("input: runner=watch watches one folder, got a list")
    if isinstance(job.source, LiveSource):
        raise ConfigError(
            "input: runner=watch watches a folder, and a stream arrives by itself; use runner=batch"
        )
    root = expanded(given)
    if given == "-" or not root.is_dir():
        raise ConfigError(f"input: runner=watch watches a folder, and '{given}' is not a folder")
    done = _destination(root, "done", options.done, options.after)
    failed = _destination(root, "failed", options.failed, options.after)
    return WatchFolders(root, done, failed)


def _destination(root: Path, name: str, given: str | None, after: str) -> Path:
    path = expanded(given) if given else root / name
    if after != "keep":
        for base in (root, root.resolve()):
            if path.is_relative_to(base):
                path = root / path.relative_to(base)
        if path.is_relative_to(root):
            folders = [path, *path.parents][: len(path.relative_to(root).parts)]
            for link in filter(Path.is_symlink, folders):
                raise ConfigError(
                    f"runner.{name}: '{path}' is behind a symbolic link in the watched folder, "
                    f"'{link}', which is not followed. Remove the link, or set runner.{name} to "
                    "the folder that it leads to"
                )
    if path.resolve() == root.resolve():
        raise ConfigError(
            f"runner.{name}: '{path}' is the watched folder itself. Choose another folder, which "
            "may be in it"
        )
    return path


def kinds_of(job: Job) -> Kinds:
    """Return which files of the folder are read, and how, according to the job's source."""
    if isinstance(job.source, Images):
        return job.source.kinds
    return Kinds(FrameOptions(exif=job.config["exif"]), videos=False)  # a custom source
