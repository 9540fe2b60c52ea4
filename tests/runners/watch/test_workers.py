"""A watch whose files are processed by workers, whatever happens to them; without Ray."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from batches import job_of, lines, record, write_images
from processes import wait_for
from scripted_pool import Fate, ScriptedPool
from watched import IN_THIS_PROCESS, Watched

from pipeline.errors import ConfigError, OutputError, WorkersLostError
from runners.cluster.failure import Failure
from runners.ray import executor, remote
from runners.watch import schedule
from runners.watch.runner import Watch

RAY = (IN_THIS_PROCESS, "device=cpu", "runner.executor=ray", "runner.chunk=4")
NAMES = [f"{i}.png" for i in range(12)]


@dataclass
class Pools:
    """The pools that a watch opens.

    Attributes:
        opened: Those so far.
        number: Number of workers of the next.
        fate: That of the next; see ``ScriptedPool``.
    """

    opened: list[ScriptedPool] = field(default_factory=list)
    number: int = 3
    fate: Fate = lambda ids: ""


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> Pools:
    pools = Pools()

    def opened_pool(job: Any, options: Any, *, isolate: bool) -> ScriptedPool:
        assert isolate
        pool = ScriptedPool(job, pools.number, pools.fate)
        for module in (executor, remote):
            monkeypatch.setattr(module, "time", pool)
        pools.opened.append(pool)
        return pool

    monkeypatch.setattr("runners.watch.runner.opened_pool", opened_pool)
    return pools


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(schedule, "BACK_OFF_S", (0.05, 0.2))
    one = Watched(tmp_path, monkeypatch)
    yield one
    one.abandon()


def test_the_result_is_that_of_a_batch(watched: Watched, pools: Pools, tmp_path: Path) -> None:
    once: set[str] = set()

    def fate(ids: Sequence[str]) -> str:
        if "5.png" in ids and "5.png" not in once:
            once.add("5.png")
            return "die late"
        return ""

    pools.fate = fate
    write_images(tmp_path / "batch", *NAMES)
    (tmp_path / "batch/7.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    job = job_of(f"input={tmp_path}/batch", f"output={tmp_path}/expected", "device=cpu")
    job.runner.run(job)
    for half in (NAMES[:6], NAMES[6:]):
        for name in half:
            (watched.inbox / name).write_bytes((tmp_path / "batch" / name).read_bytes())
        if half == NAMES[:6]:
            watched.start(*RAY, "runner.after=move")
            watched.wait_for_assets(*half)
    wait_for(lambda: len(list(watched.inbox.glob("done/*"))) == 11)
    wait_for((watched.inbox / "failed/7.png").exists)
    report = watched.stop()
    assert (report.exit_status, report.counts) == (0, {"done": 11, "failed": 1})
    for name in ("predictions.jsonl", "failures.jsonl"):  # files arrive in any order
        found, expected = (
            {line["asset"]: {**line, "image_id": 0} for line in lines(out / name)}
            for out in (watched.out, tmp_path / "expected")
        )
        assert found == expected
    assert len(pools.opened) == 1
    assert record(watched.out)["device"]["workers"] == 3
    assert record(watched.out)["warnings"][-1].startswith("a worker was lost; ")


def test_a_file_that_is_not_complete_is_retried(
    watched: Watched, pools: Pools, tmp_path: Path
) -> None:
    write_images(tmp_path, "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (watched.inbox / "a.png").write_bytes(whole[:40])
    watched.start(*RAY, "runner.settle_s=0.3", "runner.after=move")
    wait_for(lambda: bool(pools.opened and pools.opened[0].processed))
    (watched.inbox / "a.png").write_bytes(whole)
    wait_for((watched.inbox / "done/a.png").exists)
    assert watched.stop().counts == {"done": 1, "failed": 0}


def test_workers_that_are_gone_come_back(watched: Watched, pools: Pools) -> None:
    pools.number = 1
    write_images(watched.inbox, *NAMES[:3])
    watched.start(*RAY, "runner.after=move")
    watched.wait_for_assets(*NAMES[:3])
    is_back = threading.Event()
    start = ScriptedPool.start

    def never(self: ScriptedPool, worker: int) -> Any:
        return start(self, worker) if is_back.is_set() else object()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptedPool, "start", never)
        write_images(watched.inbox, *NAMES[3:])
        watched.wait_for_health("unhealthy: no worker has ")
        wait_for(lambda: len(pools.opened) > 1)  # it connects again
        assert (watched.inbox / "3.png").exists()
        is_back.set()
        wait_for((watched.inbox / "done/11.png").exists)
    watched.wait_for_health("ok")
    assert watched.stop().counts == {"done": 12, "failed": 0}


def test_workers_that_are_gone_in_a_single_pass(watched: Watched, pools: Pools) -> None:
    pools.fate, pools.number = (lambda ids: "die"), 1
    write_images(watched.inbox, "a.png", "b.png")
    start, n = ScriptedPool.start, 0

    def once(self: ScriptedPool, worker: int) -> Any:
        nonlocal n
        n += 1
        return start(self, worker) if n <= 2 else object()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptedPool, "start", once)
        watched.start(*RAY, "runner.max_passes=1")
        with pytest.raises(WorkersLostError, match="no worker has answered for 120 s"):
            watched.wait()
    pools.fate = lambda ids: ""
    watched.start(*RAY, "runner.max_passes=1")
    assert watched.wait().counts == {"done": 2, "failed": 0}


def test_a_stop_does_not_wait_for_a_worker_that_hangs(watched: Watched, pools: Pools) -> None:
    pools.fate = lambda ids: "hang"
    write_images(watched.inbox, *NAMES)
    watched.start(*RAY, "runner.stall_s=86400", "runner.after=move")
    wait_for(lambda: bool(pools.opened and pools.opened[0]._hangs))
    assert watched.stop(abort=True).counts == {"done": 0, "failed": 0}
    assert sorted(path.name for path in watched.inbox.glob("*.png")) == sorted(NAMES)
    pools.fate = lambda ids: ""
    watched.start(*RAY, "runner.max_passes=1", "runner.after=move")
    assert watched.wait().counts == {"done": 12, "failed": 0}


def test_a_full_disk_at_a_worker(
    watched: Watched, pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Failure.of(OutputError("cannot write the output: no space"))
    with monkeypatch.context() as patch:
        patch.setattr("scripted_pool.Worker.process", lambda *_: full)
        write_images(watched.inbox, *NAMES)
        watched.start(*RAY)
        watched.wait_for_health("unhealthy: cannot write the output: no space")
    watched.wait_for_health("ok")
    watched.wait_for_assets(*NAMES)
    assert len(pools.opened) == 1
    assert watched.stop().counts == {"done": 12, "failed": 0}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"executor": "dask"}, "executor: expected local or ray, got 'dask'"),
        ({"executor": "ray", "workers": 0}, "workers: expected a whole number from 1 to 10000"),
        ({"workers": 2}, "workers=2: it applies with runner.executor=ray"),
        ({"wait_s": 600}, "wait_s=600: it applies with runner.executor=ray"),
    ],
)
def test_wrong_values(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Watch(**option)
    assert str(caught.value).startswith(message)
