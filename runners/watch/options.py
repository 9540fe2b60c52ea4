"""The options of ``runner=watch``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.validation import check, check_choice, check_flag, check_number, check_whole
from runners import budget
from runners.ray.options import WorkerOptions


@dataclass
class WatchOptions(WorkerOptions):
    """The options of a watch, checked.

    Attributes:
        ready: When a file is complete: ``settled``, when it has not changed for ``settle_s``;
            ``marker``, when ``<name><marker>`` is beside it; ``rename``, as soon as it has its
            name, for writers that write under a temporary name first.
        settle_s: Seconds that a file must stay unchanged before it is processed.
        marker: Suffix of the marker's name.
        ignore: Patterns of names, or of paths below the folder, to skip.
        poll_s: Seconds between scans of the folder; events start a scan earlier.
        events: Whether to subscribe to file system events of the kernel.
        after: What happens to a file whose result is committed: ``keep``, ``move`` or ``delete``.
            With ``move`` and ``delete``, files that failed are moved to ``failed``.
        done: Destination of ``move``; by default ``done`` in the watched folder.
        failed: Destination of files that failed; by default ``failed`` in the watched folder.
        finalize_every_s: Seconds between updates of the aggregates (``coco.json``), if there are
            new results; 0 to update them only at the end.
        max_passes: Stop after this many scans and the work they found; for cron.
        max_failures: Stop, with exit status 4, when more inputs have failed since the start: a
            number, or a share of the processed inputs (``5%``).
        metrics_port: Serve Prometheus metrics on this port of 127.0.0.1.
        on_change: What to do with results of other settings in the output: ``error`` or
            ``restart``, as for ``runner=batch``.
        on_lock: What to do if another run has locked the output: ``error`` or ``skip``, as for
            ``runner=batch``.
        retry_failed: At the start, also retry inputs that killed their worker process.
        executor: Where files are processed: ``local``, in this process, or ``ray``, by workers on
            several devices or machines; the other options of ``WorkerOptions`` apply then.

    Raises:
        ConfigError: An option has a bad value.
    """

    ready: Literal["settled", "marker", "rename"] = "settled"
    settle_s: float = 5.0
    marker: str = ".done"
    ignore: list[str] = field(default_factory=list)
    poll_s: float = 10.0
    events: bool = True
    after: Literal["keep", "move", "delete"] = "keep"
    done: str | None = None
    failed: str | None = None
    finalize_every_s: float = 3600.0
    max_passes: int | None = None
    max_failures: int | float | str | None = None
    metrics_port: int | None = None
    on_change: str = "error"
    on_lock: str = "error"
    retry_failed: bool = False
    executor: Literal["local", "ray"] = "local"
    wait_s: float = 120.0  # shorter than in a batch: then it connects again

    def __post_init__(self) -> None:
        check_choice("ready", self.ready, ("settled", "marker", "rename"))
        check_choice("after", self.after, ("keep", "move", "delete"))
        check_choice("on_change", self.on_change, ("error", "restart"))
        check_choice("on_lock", self.on_lock, ("error", "skip"))
        check_choice("executor", self.executor, ("local", "ray"))
        self.check_workers(used=self.executor == "ray")
        for name in ("settle_s", "poll_s", "finalize_every_s"):
            check_number(name, getattr(self, name), 0)
        for name in ("events", "retry_failed"):
            check_flag(name, getattr(self, name))
        for name in ("done", "failed"):
            path = getattr(self, name)
            is_valid = path is None or (isinstance(path, str) and bool(path))
            check(name, path, is_valid, "the path of a folder, or null")
        is_suffix = isinstance(self.marker, str) and bool(self.marker) and "/" not in self.marker
        check("marker", self.marker, is_suffix, "the suffix of a file name, such as .done")
        is_list = isinstance(self.ignore, list) and all(isinstance(p, str) for p in self.ignore)
        check("ignore", self.ignore, is_list, "a list of patterns, such as [*_thumb.jpg]")
        if self.max_passes is not None:
            check_whole("max_passes", self.max_passes, 1)
        if self.metrics_port is not None:
            check_whole("metrics_port", self.metrics_port, 0, 65535)
        budget.allowed(self.max_failures, 0)
