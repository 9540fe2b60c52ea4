"""Workers in the test's own process, which die, hang and are late as a script says; without Ray."""

from __future__ import annotations

import pickle
import random
from collections import deque
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from pipeline.job import Job
from pipeline.protocols import Asset
from runners.ray.pool import Call, WorkerLost, pickled
from runners.ray.worker import Worker

Fate = Callable[[Sequence[str]], str]  # ids -> "", "die", "die late", "hang"


class ScriptedPool:
    """Answers one call per ``wait``, of a worker drawn at random; its clock is ``time``.

    Args:
        job: Built again by each worker.
        number: Number of workers.
        fate: What happens to a chunk; by default it is processed.
        seed: Of the order in which workers work.
    """

    def __init__(self, job: Job, number: int, fate: Fate = lambda ids: "", seed: int = 0) -> None:
        self._arguments = {**job.config, "input": None, "output": str(job.output)}, str(Path.cwd())
        self._fate, self._random = fate, random.Random(seed)
        self._numbers = range(number)
        self._alive = [self._worker() for _ in self._numbers]
        self._queues: list[deque[tuple[int, Any]]] = [deque() for _ in self._numbers]
        self._answers: dict[Call, Any] = {}
        self._hangs: set[int] = set()
        self._n_calls = 0
        self._now_s = 0.0
        self.on_start: Callable[[int, Any], Any] = lambda worker, answer: answer
        self.processed: list[list[str]] = []
        self.n_restarts = 0

    def monotonic(self) -> float:
        return self._now_s

    def workers(self) -> Sequence[int]:
        return self._numbers

    def start(self, worker: int) -> Call:
        return self._call(worker, lambda: self.on_start(worker, self._alive[worker].start()))

    def process(self, worker: int, assets: Sequence[Asset], *, isolate: bool) -> Call:
        return self._call(worker, (pickled(assets), isolate))

    def progress(self, worker: int) -> Call:
        self._n_calls += 1
        self._answers[self._n_calls] = self._alive[worker].progress()
        return self._n_calls

    def restart(self, worker: int) -> None:
        self.n_restarts += 1
        self._replace(worker)

    def wait(self, calls: Collection[Call], timeout_s: float) -> Collection[Call]:
        done = [call for call in calls if call in self._answers]
        if done or not timeout_s:
            return done
        self._now_s += 0.01
        can_work = [n for n in self._numbers if self._queues[n] and n not in self._hangs]
        if can_work:
            self._answer(self._random.choice(can_work))
        else:
            self._now_s += timeout_s
        return [call for call in calls if call in self._answers]

    def result(self, call: Call) -> Any:
        answer = self._answers[call]
        if isinstance(answer, WorkerLost):
            raise answer
        return pickle.loads(answer) if isinstance(answer, bytes) else answer

    def close(self) -> None:
        for worker in self._numbers:
            self._replace(worker)

    def _call(self, worker: int, request: Any) -> Call:
        self._n_calls += 1
        self._queues[worker].append((self._n_calls, request))
        return self._n_calls

    def _answer(self, worker: int) -> None:
        call, request = self._queues[worker][0]
        if not isinstance(request, tuple):
            self._queues[worker].popleft()
            self._answers[call] = request()
            return
        ids = [asset.id for asset in pickle.loads(request[0])]
        fate = self._fate(ids)
        if fate == "hang":
            self._hangs.add(worker)
            return
        if fate != "die":
            self.processed.append(ids)
            answer = self._alive[worker].process(*request)
        if fate.startswith("die"):
            self._replace(worker)
            return
        self._queues[worker].popleft()
        self._answers[call] = WorkerLost("died") if answer is None else answer

    def _replace(self, worker: int) -> None:
        """Lose the process, and all its calls."""
        for call, _ in self._queues[worker]:
            self._answers[call] = WorkerLost("died")
        self._queues[worker].clear()
        self._hangs.discard(worker)
        self._alive[worker].close()
        self._alive[worker] = self._worker()

    def _worker(self) -> Worker:
        return Worker(*self._arguments, decode_threads=1)
