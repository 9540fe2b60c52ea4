"""The run directory is that of ``runner=batch``, whatever happens to the workers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from batches import derived, job_of, lines, record, write_images
from packing import pack
from scripted_pool import ScriptedPool
from webserver import folder_served

from pipeline.errors import ConfigError, OutputError, PipelineError
from pipeline.job import Report
from runners.batch.ray import RayBatch
from runners.cluster.failure import Failure
from runners.ray import executor
from runners.rundir.ledger.ledger import Entry, Ledger

NAMES = [*(f"{i}.png" for i in range(18)), "sub/x.jpg"]
Run = Callable[..., Report]


def entries(out: Path) -> list[Entry]:
    with Ledger(out / "ledger.sqlite") as ledger:
        return [replace(entry, mtime_ns=None) for entry in ledger.entries()]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray") / "in"
    write_images(folder, *NAMES)
    (folder / "5.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    return folder


@pytest.fixture(scope="module")
def batch(images: Path) -> Path:
    """The run directory of ``runner=batch``."""
    out = images.parent / "batch"
    job = job_of(f"input={images}", "device=cpu", "sink=[coco,overlay]", f"output={out}")
    assert job.runner.run(job).exit_status == 3
    return out


@pytest.fixture
def run(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run on scripted workers."""

    def go(
        fate: Any = lambda ids: "",
        *arguments: str,
        seed: int = 0,
        number: int = 3,
        prepare: Callable[[ScriptedPool], None] = lambda pool: None,
    ) -> Report:
        job = job_of(
            "runner=ray", f"input={images}", "device=cpu", "sink=[coco,overlay]",
            f"output={tmp_path}/out", "runner.chunk=4", "decode.isolation=none", *arguments,
        )  # fmt: skip
        pool = ScriptedPool(job, number, fate, seed)
        prepare(pool)
        monkeypatch.setattr(executor, "time", pool)
        monkeypatch.setattr(RayBatch, "_pool", lambda self, job: pool)
        return job.runner.run(job)

    return go


def test_result_is_that_of_a_batch(run: Run, batch: Path, tmp_path: Path) -> None:
    report = run()
    assert (report.exit_status, report.counts) == (3, {"done": 18, "failed": 1})
    assert derived(tmp_path / "out") == derived(batch)
    assert entries(tmp_path / "out") == entries(batch)
    assert record(tmp_path / "out")["settings"] == record(batch)["settings"]
    assert record(tmp_path / "out")["device"]["workers"] == 3
    assert run().counts == {"done": 0, "failed": 1, "earlier": 18}  # only what failed, again


@pytest.mark.parametrize("seed", range(4))
def test_workers_die_at_random(run: Run, batch: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    deaths, with_chunk = 0, Counter[tuple[str, ...]]()

    def fate(ids: Sequence[str]) -> str:
        nonlocal deaths
        if deaths < 6 and chance.random() < 0.3 and with_chunk[tuple(ids)] < 2:
            with_chunk[tuple(ids)] += 1  # with three, it would count as poison
            deaths += 1
            return chance.choice(["die", "die late", "hang"])
        return ""

    assert run(fate, seed=seed).counts == {"done": 18, "failed": 1}
    assert deaths
    assert derived(tmp_path / "out") == derived(batch)
    (warning,) = record(tmp_path / "out")["warnings"]
    again = int(warning.split(";")[1].split()[0])
    assert warning.startswith(f"workers were lost {deaths} times")
    assert again <= deaths * 2 * 4


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("die", "its worker died, 3 times in a row"),
        ("hang", "its worker made no progress for 300 s (raise runner.stall_s), 3 times in a row"),
    ],
)
def test_poison_costs_only_itself(
    run: Run, batch: Path, tmp_path: Path, what: str, message: str
) -> None:
    report = run(lambda ids: what if "7.png" in ids else "")
    assert (report.exit_status, report.counts) == (3, {"done": 17, "failed": 2})
    found = {line["asset"]: line for line in lines(tmp_path / "out/failures.jsonl")}
    assert list(found) == ["5.png", "7.png"]
    assert found["7.png"]["error"] == "PoisonError"
    assert found["7.png"]["message"] == message
    assert found["7.png"]["attempts"] == 3
    without = {line["asset"]: line for line in lines(batch / "predictions.jsonl")}
    del without["7.png"]
    for line in lines(tmp_path / "out/predictions.jsonl"):
        assert {**line, "image_id": 0} == {**without.pop(line["asset"]), "image_id": 0}
    assert not without
    assert run().counts == {"done": 0, "failed": 1, "earlier": 17, "not_retried": 1}
    assert run(lambda ids: "", "runner.retry_failed=true").counts["done"] == 1
    assert derived(tmp_path / "out") == derived(batch)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "http"])
def test_inputs_that_are_no_files(run: Run, images: Path, tmp_path: Path, kind: str) -> None:
    batch = tmp_path / "batch"
    with folder_served(images) as given:
        if kind != "http":
            members = [(name, (images / name).read_bytes()) for name in NAMES]
            given = str(pack(tmp_path / f"a.{kind}", members))
        job = job_of(f"input={given}", "device=cpu", "sink=[coco,overlay]", f"output={batch}")
        job.runner.run(job)
        report = run(lambda ids: "die" if "3.png" in ids else "", f"input={given}")
        assert report.counts["failed"] == 2
        assert run(lambda ids: "", "runner.retry_failed=true", f"input={given}").counts["done"] == 1
    assert derived(tmp_path / "out") == derived(batch)
    digests = [[entry.sha256 for entry in entries(out)] for out in (tmp_path / "out", batch)]
    assert digests[0] == digests[1]


def test_inputs_that_cannot_be_sent(run: Run, tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/ray/a.png", b"x")
    message = "^'a.png' cannot be sent to a worker: memory:// exists in one process only; use runn"
    with pytest.raises(ConfigError, match=message):
        run(lambda ids: "", "input=memory://ray/")
    system.store.clear()


def test_interrupted_anywhere_and_resumed(run: Run, batch: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for n in range(1, 4):

        def interrupt(ids: Sequence[str], left: list[int] = [n]) -> str:  # noqa: B006
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return ""

        with pytest.raises(KeyboardInterrupt):
            run(interrupt, "runner.chunk=1", seed=n)
        ids = {line["asset"] for line in lines(out / "predictions.jsonl")}
        drawn = {str(p.relative_to(out / "overlay")) for p in out.rglob("overlay/**/*.jpg")}
        assert len(drawn) == len(ids)
    run()
    assert derived(out) == derived(batch)


def test_worker_with_other_settings_gets_no_work(run: Run, batch: Path, tmp_path: Path) -> None:
    def prepare(pool: ScriptedPool) -> None:
        def started(worker: int, answer: Any) -> Any:
            other = {**answer.settings, "versions": {**answer.settings["versions"], "torch": "1"}}
            return replace(answer, host="b", settings=other) if worker == 1 else answer

        pool.on_start = started

    assert run(prepare=prepare, seed=2).counts["done"] == 18
    assert derived(tmp_path / "out") == derived(batch)
    (warning,) = record(tmp_path / "out")["warnings"]
    assert "the worker on b computes with other settings (versions.torch was " in warning


def test_no_worker_is_left(run: Run, tmp_path: Path, batch: Path) -> None:
    def prepare(pool: ScriptedPool) -> None:
        failure = Failure(PipelineError, "no GPU here")
        n = 0

        def started(worker: int, answer: Any) -> Any:
            nonlocal n
            n += 1
            return answer if n <= 2 else failure  # after the first loss

        pool.on_start = started

    with pytest.raises(PipelineError, match="no GPU here"):
        run(lambda ids: "die", prepare=prepare, number=1)
    run()
    assert derived(tmp_path / "out") == derived(batch)


def test_workers_that_never_return(run: Run) -> None:
    def prepare(pool: ScriptedPool) -> None:
        start, n = pool.start, 0

        def starting(worker: int) -> Any:
            nonlocal n
            n += 1
            return start(worker) if n <= 2 else object()  # never answered

        pool.start = starting  # type: ignore[method-assign]

    with pytest.raises(PipelineError, match="no worker has answered for 600 s"):
        run(lambda ids: "die", prepare=prepare, number=1)


def test_workers_that_never_start(run: Run, tmp_path: Path) -> None:
    def prepare(pool: ScriptedPool) -> None:
        pool.start = lambda worker: object()  # type: ignore[method-assign, assignment, return-value]

    with pytest.raises(PipelineError, match=r"no worker has started in 1 s \(runner.wait_s\)"):
        run(lambda ids: "", "runner.wait_s=1", prepare=prepare)
    assert not (tmp_path / "out/predictions.jsonl").exists()


def test_full_disk_at_a_worker(
    run: Run, batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Failure.of(OutputError("cannot write the output"))
    with monkeypatch.context() as patch:
        patch.setattr("scripted_pool.Worker.process", lambda *_: full)
        with pytest.raises(OutputError, match="cannot write"):
            run()
    run()
    assert derived(tmp_path / "out") == derived(batch)


def test_stops_at_the_limit_of_failures(run: Run, batch: Path, tmp_path: Path) -> None:
    report = run(lambda ids: "", "runner.max_failures=0")
    assert report.exit_status == 4
    assert report.counts["failed"] == 1
    run()
    assert derived(tmp_path / "out") == derived(batch)
