"""The workers of a watch with ``runner.executor=ray``."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable

from pipeline.errors import PipelineError, WorkersLostError
from pipeline.job import Job, Outcome
from pipeline.protocols import Asset
from runners.ray.executor import ActorExecutor
from runners.ray.options import WorkerOptions
from runners.ray.remote import RemoteRunnable


class WatchWorkers:
    """An executor whose workers live as long as the watch; it connects again after it lost them.

    Args:
        job: The job, its runnable entered.
        runnable: That runnable.
        options: Those of the workers.
        notify: See ``ActorExecutor``.
    """

    def __init__(
        self,
        job: Job,
        runnable: RemoteRunnable,
        options: WorkerOptions,
        notify: Callable[[str | None], None],
    ) -> None:
        self._job, self._runnable, self._options, self._notify = job, runnable, options, notify
        self._settings = job.settings()  # whatever a cluster that comes back has
        self._warnings: list[str] = []
        self._executor: ActorExecutor | None = self._connected()

    @property
    def number(self) -> int:
        """Number of workers."""
        return len(self._runnable.pool.workers()) if self._runnable.pool is not None else 1

    @property
    def warnings(self) -> list[str]:
        """What to tell the user at the end."""
        return self._warnings + (self._executor.warnings if self._executor else [])

    def run(self, assets: Iterable[Asset]) -> Generator[Outcome, None, None]:
        """Yield the outcomes in the order in which they arrive. Can be repeated.

        Raises:
            OutputError: The output cannot be written.
            WorkersLostError: No worker has answered for ``wait_s``. The next call connects again.
            PipelineError: All workers compute with other settings.
        """
        if self._executor is None:
            self._reconnect()
        executor = self._executor
        assert executor is not None
        try:
            yield from executor.run(assets)
        except WorkersLostError:
            self._warnings += executor.warnings
            self._executor = None
            raise

    def stop(self) -> None:
        """End ``run`` soon; on any thread."""
        self._runnable.stop()
        if self._executor is not None:
            self._executor.stop()

    def _reconnect(self) -> None:
        try:
            self._runnable.__exit__()
            self._runnable.__enter__()
        except PipelineError as exc:
            raise WorkersLostError(str(exc)) from exc
        self._executor = self._connected()

    def _connected(self) -> ActorExecutor:
        assert self._runnable.pool is not None
        return ActorExecutor(
            self._job, self._runnable.pool, self._options, self._settings, self._notify
        )
