"""The engine: order, and isolation of one asset's failure."""

from __future__ import annotations

import errno
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scripted import Halved, ListedAsset, Recording, Scripted, Stepped, run

from pipeline.engine import Pipeline
from pipeline.errors import DecodeError, InferenceError, OutputError, SinkError, StageError
from pipeline.records import Frame, Predictions, Result
from pipeline.testing import make_predictions

KINDS = [pytest.param(Scripted, id="plain"), pytest.param(Stepped, id="stepped")]


@pytest.mark.parametrize("forwards", [1, 3])
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_order_is_kept(kind: type[Scripted], threads: int, batch_size: int, forwards: int) -> None:
    assets = [ListedAsset(f"{i}", n_frames=i % 4 + 1, size=(8 + 2 * (i % 3), 8)) for i in range(30)]
    sink = Recording()
    outcomes = run(
        assets,
        runnable=kind(batch_size=batch_size, batch_by_shape=True, forwards=forwards),
        sinks={"s": sink},
        decode_threads=threads,
    )
    assert [outcome.asset.id for outcome in outcomes] == [asset.id for asset in assets]
    assert list(sink.flushed) == [asset.id for asset in assets]
    assert [outcome.n_frames for outcome in outcomes] == [asset.n_frames for asset in assets]
    assert all(frames == sorted(frames) for frames in sink.flushed.values())
    assert outcomes[0].detections == {"cat": 1, "dog": 1}


def test_batches_are_full() -> None:
    runnable = Scripted()
    run([ListedAsset(f"{i}") for i in range(7)], runnable=runnable, batch_size=3)
    assert [len(batch) for batch in runnable.batches] == [3, 3, 1]


@pytest.mark.parametrize("forwards", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_guilty_asset_fails_in_the_model(
    kind: type[Scripted], batch_size: int, forwards: int
) -> None:
    runnable, sink = kind(guilty=("2", "5"), forwards=forwards), Recording()
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
    assert (error.asset_id, error.step) == ("2", "inference")


@dataclass
class FailsAt(Stepped):
    """Raises for one asset, in one step."""

    step: str = ""
    asset_id: str = ""

    def __init__(self, step: str, asset_id: str) -> None:
        super().__init__()
        self.step, self.asset_id = step, asset_id

    def prepare(self, frame: Frame) -> Halved:
        if (self.step, self.asset_id) == ("prepare", frame.asset_id):
            raise ValueError("cannot")
        return super().prepare(frame)

    def finish(self, frame: Frame, output: float) -> Predictions:
        if (self.step, self.asset_id) == ("finish", frame.asset_id):
            raise ValueError("cannot")
        return super().finish(frame, output)


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
            {"runnable": FailsAt("prepare", "1")},
            InferenceError,
            "inference",
            id="prepare raises",
        ),
        pytest.param(
            [ListedAsset("0"), ListedAsset("1")],
            {"runnable": FailsAt("finish", "1")},
            InferenceError,
            "inference",
            id="finish raises",
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
    assert error.step == where  # type: ignore[attr-defined]
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
    with pytest.raises(OutputError, match=r"the output: no \(out/x\), in sink 'full'"):
        run([ListedAsset(f"{i}") for i in range(9)], sinks=sinks)
    assert list(first.flushed) == ["0"]


@pytest.mark.parametrize(
    ("results", "says"),
    [
        pytest.param([], "0 results for 1 frames", id="too few"),
        pytest.param(
            [None], "Predictions of size (8, 8) for this frame, got NoneType", id="nothing"
        ),
        pytest.param(
            [make_predictions(1, size=(9, 9))],
            "Predictions of size (8, 8) for this frame, got size (9, 9)",
            id="another size",
        ),
    ],
)
def test_wrong_results_of_a_runnable_are_reported(results: list[Any], says: str) -> None:
    class Wrong(Scripted):
        def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
            return results

    outcome = run([ListedAsset("0")], runnable=Wrong())[0]
    assert says in str(outcome.error)


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


def test_an_in_flight_asset_is_discarded_when_the_run_ends() -> None:
    sink = Recording()
    outcomes = Pipeline(Scripted(), {"s": raising(KeyboardInterrupt(), "1")}, {"s": sink}).run(
        [ListedAsset("0"), ListedAsset("1")]
    )
    with pytest.raises(KeyboardInterrupt):
        list(outcomes)
    assert (list(sink.flushed), sink.discarded) == (["0"], ["1"])


def test_timings() -> None:
    outcome = run([ListedAsset("0")])[0]
    assert set(outcome.timings) == {"decode", "forward", "stages", "sinks", "waiting"}
    assert all(seconds >= 0 for seconds in outcome.timings.values())


def test_timings_of_a_pipelined_runnable() -> None:
    outcome = run([ListedAsset("0")], runnable=Stepped())[0]
    steps = {"decode", "prepare", "forward", "finish", "stages", "sinks", "waiting"}
    assert set(outcome.timings) == steps


def test_forward_seconds_are_those_of_the_device() -> None:
    class Slow(Stepped):
        def forward(self, prepared: Sequence[Halved]) -> list[float]:
            time.sleep(0.02)
            return super().forward(prepared)

    outcomes = run([ListedAsset(f"{i}") for i in range(6)], runnable=Slow(batch_size=3))
    assert 0.04 <= sum(outcome.timings["forward"] for outcome in outcomes) < 0.08


@dataclass
class Selective(Recording):
    """A sink that records the scores it receives."""

    min_score: float = 0.75
    scores: tuple[float, ...] = ()

    def write(self, result: Result) -> None:
        super().write(result)
        self.scores += tuple(result.predictions.scores.round(3).tolist())


class ThreeScores(Scripted):
    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        scores = np.array([0.875, 0.75, 0.5], np.float32)
        return [
            make_predictions(3, size=frame.size, class_names=self.class_names).replace(
                scores=scores
            )
            for frame in frames
        ]


def test_a_sink_receives_instances_from_its_lowest_score() -> None:
    some, others = Selective(), Selective(min_score=0)
    outcomes = run([ListedAsset("a")], runnable=ThreeScores(), sinks={"s": some, "o": others})
    assert some.scores == (0.875, 0.75)
    assert others.scores == (0.875, 0.75, 0.5)
    assert sum(outcomes[0].detections.values()) == 3
