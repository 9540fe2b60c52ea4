"""The engine: order, isolation of one asset's failure, and that nothing ever hangs."""

from __future__ import annotations

import errno
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import Pipeline
from pipeline.errors import DecodeError, InferenceError, OutputError, SinkError, StageError
from pipeline.testing import make_frame, make_predictions
from pipeline.types import Frame, Outcome, Predictions, Result


@dataclass
class ListedAsset:
    id: str
    n_frames: int = 1
    error: Exception | None = None
    path: Path = Path("x")
    fps: float | None = None

    def fingerprint(self) -> str:
        return self.id

    def frames(self) -> Iterator[Frame]:
        for i in range(self.n_frames):
            yield make_frame(8, 8, asset_id=self.id, index=i)
        if self.error is not None:
            raise self.error


@dataclass
class Scripted:
    """Fails when a frame of ``guilty`` is in the batch; remembers the batches."""

    guilty: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ("cat", "dog", "bird")
    batches: list[list[str]] = field(default_factory=list)

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        self.batches.append([frame.asset_id for frame in frames])
        if any(frame.asset_id in self.guilty for frame in frames):
            raise RuntimeError("out of luck")
        return [make_predictions(2, size=frame.size) for frame in frames]


@dataclass
class Recording:
    """A sink that keeps what it is told; raises where the script says so."""

    fail: dict[tuple[str, str], Exception] = field(default_factory=dict)
    pending: dict[str, list[int]] = field(default_factory=dict)
    flushed: dict[str, list[int]] = field(default_factory=dict)
    discarded: list[str] = field(default_factory=list)

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def _maybe(self, what: str, asset_id: str) -> None:
        if (what, asset_id) in self.fail:
            raise self.fail[what, asset_id]

    def write(self, result: Result) -> None:
        self._maybe("write", result.frame.asset_id)
        self.pending.setdefault(result.frame.asset_id, []).append(result.frame.index)

    def flush(self, asset: Any) -> None:
        self._maybe("flush", asset.id)
        self.flushed[asset.id] = self.pending.pop(asset.id, [])

    def discard(self, asset: Any) -> None:
        self.pending.pop(asset.id, None)
        self.flushed.pop(asset.id, None)
        self.discarded.append(asset.id)


def run(
    assets: Sequence[ListedAsset], *, runnable: Any = None, sinks: Any = None, **options: Any
) -> list[Outcome]:
    pipeline = Pipeline(
        runnable or Scripted(), options.pop("stages", {}), sinks or {"s": Recording()}, **options
    )
    return list(pipeline.run(assets))


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_order_is_kept(threads: int, batch_size: int) -> None:
    assets = [ListedAsset(f"{i}", n_frames=i % 4 + 1) for i in range(30)]
    sink = Recording()
    outcomes = run(assets, sinks={"s": sink}, batch_size=batch_size, decode_threads=threads)
    assert [outcome.asset.id for outcome in outcomes] == [asset.id for asset in assets]
    assert list(sink.flushed) == [asset.id for asset in assets]
    assert [outcome.n_frames for outcome in outcomes] == [asset.n_frames for asset in assets]
    assert all(frames == sorted(frames) for frames in sink.flushed.values())
    assert outcomes[0].detections == {"cat": 1, "dog": 1}


def test_batches_are_full() -> None:
    runnable = Scripted()
    run([ListedAsset(f"{i}") for i in range(7)], runnable=runnable, batch_size=3)
    assert [len(batch) for batch in runnable.batches] == [3, 3, 1]


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_only_the_guilty_asset_fails_in_the_model(batch_size: int) -> None:
    runnable, sink = Scripted(guilty=("2", "5")), Recording()
    outcomes = run(
        [ListedAsset(f"{i}") for i in range(8)],
        runnable=runnable,
        sinks={"s": sink},
        batch_size=batch_size,
    )
    failed = {outcome.asset.id: outcome.error for outcome in outcomes if outcome.error}
    assert list(failed) == ["2", "5"]
    assert list(sink.flushed) == ["0", "1", "3", "4", "6", "7"]
    error = failed["2"]
    assert isinstance(error, InferenceError)
    assert str(error) == "RuntimeError: out of luck"
    assert (error.asset_id, error.stage) == ("2", "inference")


def raising(exc: BaseException, asset_id: str) -> Callable[[Result], Result | None]:
    def stage(result: Result) -> Result | None:
        if result.frame.asset_id == asset_id:
            raise exc
        return result

    return stage


@pytest.mark.parametrize(
    ("assets", "options", "kind", "where"),
    [
        pytest.param(
            [ListedAsset("0"), ListedAsset("1", error=OSError("gone"))],
            {},
            DecodeError,
            "decode",
            id="decoder raises after a frame",
        ),
        pytest.param(
            [ListedAsset("0"), ListedAsset("1", n_frames=0, error=DecodeError("bad"))],
            {},
            DecodeError,
            "decode",
            id="decoder raises its own error",
        ),
        pytest.param(
            [ListedAsset("0"), ListedAsset("1", n_frames=0)], {}, DecodeError, "decode", id="empty"
        ),
        pytest.param(
            [ListedAsset("0"), ListedAsset("1")],
            {"stages": {"mine": raising(KeyError("k"), "1")}},
            StageError,
            "mine",
            id="stage raises",
        ),
        pytest.param(
            [ListedAsset("0"), ListedAsset("1")],
            {"stages": {"mine": raising(StopIteration(), "1")}},
            StageError,
            "mine",
            id="stage raises StopIteration",
        ),
        pytest.param(
            [ListedAsset("0"), ListedAsset("1")],
            {"stages": {"mine": lambda r: r if r.frame.asset_id != "1" else r.predictions}},
            StageError,
            "mine",
            id="stage returns something else",
        ),
        pytest.param(
            [ListedAsset("0"), ListedAsset("1")],
            {"sinks": {"a": Recording(), "b": Recording({("write", "1"): ValueError("v")})}},
            SinkError,
            "b",
            id="sink raises on write",
        ),
        pytest.param(
            [ListedAsset("0"), ListedAsset("1")],
            {"sinks": {"a": Recording(), "b": Recording({("flush", "1"): ValueError("v")})}},
            SinkError,
            "b",
            id="sink raises on flush",
        ),
    ],
)
def test_a_failure_is_one_assets_own(
    assets: list[ListedAsset], options: dict[str, Any], kind: type[Exception], where: str
) -> None:
    sinks = options.pop("sinks", {"a": Recording()})
    outcomes = run([*assets, ListedAsset("2")], sinks=sinks, **options)
    assert [bool(outcome.error) for outcome in outcomes] == [False, True, False]
    error = outcomes[1].error
    assert type(error) is kind
    assert error.stage == where  # type: ignore[attr-defined]
    assert outcomes[1].detections == {}
    for sink in sinks.values():
        assert list(sink.flushed) == ["0", "2"]
        assert sink.discarded == ["1"]
        assert not sink.pending


def test_a_stage_may_drop_frames() -> None:
    sink = Recording()
    stages = {"odd": lambda result: result if result.frame.index % 2 else None}
    outcome = run([ListedAsset("0", n_frames=5)], stages=stages, sinks={"s": sink})[0]
    assert (outcome.n_frames, outcome.n_dropped, outcome.error) == (5, 3, None)
    assert sink.flushed == {"0": [1, 3]}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("when", ["write", "flush"])
def test_a_lost_output_ends_the_run(code: int, when: str) -> None:
    first = Recording()
    sinks = {"first": first, "full": Recording({(when, "1"): OSError(code, "no", "out/x")})}
    with pytest.raises(OutputError, match=r"the output: no \(out/x\), at sink 'full'"):
        run([ListedAsset(f"{i}") for i in range(9)], sinks=sinks)
    assert list(first.flushed) == ["0"]


def engine_threads() -> list[str]:
    names = ("predict", "decode")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(names)]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("n_frames", [1, 50])
def test_a_consumer_that_stops_leaves_no_thread(n_frames: int) -> None:
    outcomes = Pipeline(Scripted(), {}, {}).run(ListedAsset(f"{i}", n_frames) for i in range(1000))
    next(outcomes)
    outcomes.close()
    assert engine_threads() == []


@pytest.mark.timeout(20)
@pytest.mark.parametrize("n_frames", [1, 50])
def test_a_source_that_raises_ends_the_run(n_frames: int) -> None:
    def listing() -> Iterator[ListedAsset]:
        yield ListedAsset("0", n_frames)
        raise OSError("the folder went away")

    outcomes = Pipeline(Scripted(), {}, {}).run(listing())
    with pytest.raises(OSError, match="went away"):
        list(outcomes)
    assert engine_threads() == []


@pytest.mark.timeout(20)
def test_a_runnable_that_exits_ends_the_run() -> None:
    class Exits(Scripted):
        def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
            raise SystemExit(9)

    with pytest.raises(SystemExit):
        run([ListedAsset(f"{i}", 20) for i in range(20)], runnable=Exits())
    assert engine_threads() == []


@pytest.mark.parametrize(
    "results",
    [
        pytest.param([], id="too few"),
        pytest.param([None], id="nothing"),
        pytest.param([make_predictions(1, size=(9, 9))], id="another size"),
    ],
)
def test_a_runnable_with_other_results_is_told_so(results: list[Any]) -> None:
    class Wrong(Scripted):
        def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
            return results

    outcome = run([ListedAsset("0")], runnable=Wrong())[0]
    assert f"{len(results)} results for 1 frames" in str(outcome.error)


def test_a_failed_batch_does_not_outlive_its_retry() -> None:
    alive: list[weakref.ref[Any]] = []

    class Heavy:
        pass

    class Failing(Scripted):
        def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
            if len(frames) == 1:
                assert [ref() for ref in alive] == [None]
                return super().predict(frames)
            heavy = Heavy()
            alive.append(weakref.ref(heavy))
            raise RuntimeError("out of memory")

    outcomes = run([ListedAsset("0"), ListedAsset("1")], runnable=Failing(), batch_size=2)
    assert [outcome.error for outcome in outcomes] == [None, None]


def test_what_is_in_work_when_the_run_ends_is_discarded() -> None:
    sink = Recording()
    outcomes = Pipeline(Scripted(), {"s": raising(KeyboardInterrupt(), "1")}, {"s": sink}).run(
        [ListedAsset("0"), ListedAsset("1")]
    )
    with pytest.raises(KeyboardInterrupt):
        list(outcomes)
    assert (list(sink.flushed), sink.discarded) == (["0"], ["1"])


def test_memory_is_bounded_by_what_is_ahead() -> None:
    decoded = 0

    class Counting(ListedAsset):
        def frames(self) -> Iterator[Frame]:
            nonlocal decoded
            decoded += 1
            return super().frames()

    pipeline = Pipeline(Scripted(), {}, {}, batch_size=2, decode_threads=2)
    outcomes = pipeline.run(Counting(f"{i}") for i in range(500))
    for done, _ in enumerate(outcomes, start=1):
        assert decoded <= done + 12


def test_timings_are_told() -> None:
    outcome = run([ListedAsset("0")])[0]
    assert set(outcome.timings) == {"decode", "forward", "stages", "sinks", "waiting"}
    assert all(seconds >= 0 for seconds in outcome.timings.values())
