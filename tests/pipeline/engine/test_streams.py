"""Assets of many frames: bounded memory, a fair share of the look-ahead, an end that comes."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from processes import wait_for
from scripted import (
    ClosableStream,
    ListedAsset,
    Recording,
    Scripted,
    Stream,
    engine_threads,
    run,
)

from pipeline.encoding import encode
from pipeline.engine import Pipeline
from pipeline.engine.prefetch import Ahead
from pipeline.errors import OutputError, SinkError, StageError
from pipeline.records import Frame, Predictions, Result

pytestmark = pytest.mark.timeout(600, method="thread")


class Counting:
    """A stage with state: numbers the frames of each asset."""

    def __init__(self, fail: str = "") -> None:
        self.fail = fail
        self.frames: dict[str, int] = {}

    def begin(self, asset: Any) -> None:
        if asset.id == self.fail:
            raise ValueError("no")
        self.frames[asset.id] = 0

    def __call__(self, result: Result) -> Result | None:
        assert result.frame.index == self.frames[result.frame.asset_id]
        self.frames[result.frame.asset_id] += 1
        return result


def videos(n_frames: int, *names: str) -> list[ListedAsset]:
    return [ListedAsset(name, n_frames, is_still=False) for name in names]


def test_begin_comes_before_the_first_frame() -> None:
    stage, sink = Counting(), Recording()
    assets = [*videos(3, "a", "b"), ListedAsset("empty", 0), *videos(2, "c")]
    outcomes = run(assets, stages={"stage": stage, "all": lambda r: r}, sinks={"sink": sink})
    assert [str(outcome.error or "") for outcome in outcomes] == ["", "", "it holds no frame", ""]
    assert stage.frames == {"a": 3, "b": 3, "c": 2}
    assert sink.begun == ["a", "b", "c"]
    assert sink.discarded == ["empty"]


@pytest.mark.parametrize("place", ["stage", "sink"])
def test_an_error_in_begin_fails_its_asset(place: str) -> None:
    stage = Counting("b" if place == "stage" else "")
    sink = Recording({("begin", "b"): ValueError("no")} if place == "sink" else {})
    other = Recording()
    outcomes = run(
        videos(3, "a", "b", "c"), stages={"stage": stage}, sinks={"sink": sink, "other": other}
    )
    assert [bool(outcome.error) for outcome in outcomes] == [False, True, False]
    error = outcomes[1].error
    assert type(error) is (StageError if place == "stage" else SinkError)
    assert (str(error), error.step) == ("ValueError: no", place)  # type: ignore[union-attr]
    assert [outcome.n_frames for outcome in outcomes] == [3, 3, 3]
    for each in (sink, other):
        assert (each.begun, each.discarded) == (["a", "c"], ["b"])
        assert each.flushed == {"a": [0, 1, 2], "c": [0, 1, 2]}


def test_a_lost_output_in_begin_ends_the_run() -> None:
    full = Recording({("begin", "b"): OSError(28, "No space left on device")})
    with pytest.raises(OutputError, match="No space left on device, in sink 'full'"):
        run(videos(3, "a", "b", "c"), sinks={"full": full})


def test_outcomes_carry_the_encoded_lines(tmp_path: Path) -> None:
    pipeline = Pipeline(Scripted(), {}, {}, encode=encode, spool_dir=tmp_path)
    for outcome in pipeline.run([ListedAsset("x"), *videos(3, "v"), ListedAsset("empty", 0)]):
        lines = [json.loads(line) for line in outcome.records]
        frames = 0 if outcome.error else outcome.n_frames
        assert outcome.records.n_lines == len(lines) == frames
        assert [line["frame"] for line in lines] == list(range(frames))
    assert run([ListedAsset("x")])[0].records.n_lines == 0


def test_a_failed_asset_leaves_no_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.system.spool._MAX_BYTES", 100)
    there: list[int] = []

    def stage(result: Result) -> Result:
        there.append(len(list(tmp_path.iterdir())))
        if result.frame.index == 5:
            raise ValueError("no")
        return result

    pipeline = Pipeline(Scripted(), {"stage": stage}, {}, encode=encode, spool_dir=tmp_path)
    (outcome,) = pipeline.run(videos(9, "v"))
    assert outcome.error is not None
    assert (max(there), list(tmp_path.iterdir())) == (1, [])


def peak_bytes(n_frames: int, directory: Path) -> int:
    """Return the peak of Python's memory while 3 assets are processed."""

    def one_by_one() -> Iterator[int]:
        pipeline = Pipeline(
            Forgetful(), {"s": Counting()}, {"r": Discarding()}, encode=encode, spool_dir=directory
        )
        for outcome in pipeline.run(videos(n_frames, "a", "b", "c")):
            assert outcome.error is None
            assert outcome.records.n_lines == n_frames
            yield sum(1 for _ in outcome.records)
            outcome.records.close()

    tracemalloc.start()
    try:
        assert list(one_by_one()) == [n_frames] * 3
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Forgetful(Scripted):
    """A model that remembers no batches."""

    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        self.batches.clear()
        return super().predict(frames)


class Discarding(Recording):
    """A sink that remembers no frames."""

    def write(self, result: Result) -> None:
        pass


@pytest.mark.parametrize("n_frames", [500, pytest.param(20_000, marks=pytest.mark.nightly)])
def test_memory_does_not_grow_with_the_frames(
    tmp_path: Path, n_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.system.spool._MAX_BYTES", 20_000)  # about 50 lines
    peak_bytes(20, tmp_path)  # imports, caches
    few = peak_bytes(100, tmp_path)
    # without a bound, the lines alone would be 400 bytes per frame
    assert peak_bytes(n_frames, tmp_path) < few + 30_000
    assert list(tmp_path.iterdir()) == []


def test_half_of_the_look_ahead_is_the_first_assets() -> None:
    first, second = Stream("0", block_at=0), Stream("1")
    with Ahead([first, second], None, threads=2, max_bytes=1 << 30, max_items=8) as ahead:
        wait_for(lambda: second.n_decoded == 5)  # four wait, one does not fit
        first.released.set()
        wait_for(lambda: first.n_decoded == 5)
        items = ahead.items(lambda: None)
        assert [item.asset.id for item in (next(items) for _ in range(20)) if item] == ["0"] * 20
        assert second.n_decoded == 5


def test_half_of_the_look_ahead_in_bytes() -> None:
    frame = 8 * 8 * 3
    first, second = Stream("0", block_at=0), Stream("1")
    with Ahead([first, second], None, threads=2, max_bytes=8 * frame, max_items=99) as ahead:
        wait_for(lambda: second.n_decoded == 5)
        first.released.set()
        wait_for(lambda: first.n_decoded == 5)
        items = ahead.items(lambda: None)
        assert [item.asset.id for item in (next(items) for _ in range(20)) if item] == ["0"] * 20
        assert second.n_decoded == 5


def test_stills_may_use_all_of_the_look_ahead() -> None:
    decoded: list[int] = []

    class Still(ListedAsset):
        def frames(self) -> Iterator[Frame]:
            yield from super().frames()
            decoded.append(1)

    assets = (Still(f"{i}") for i in range(99))
    with Ahead(assets, None, threads=2, max_bytes=1 << 30, max_items=8):
        wait_for(lambda: len(decoded) == 8)


def test_a_decoder_that_blocks_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engine.prefetch._PATIENCE_S", 0.1)
    blocking = Stream("b", block_at=5)  # more would not fit into the queues
    sink = Recording()

    def assets() -> Iterator[ListedAsset]:
        yield from videos(5, "a")
        yield blocking

    outcomes = Pipeline(Scripted(), {}, {"s": sink}).run(assets())
    assert next(outcomes).asset.id == "a"
    assert blocking.blocked.wait(30)
    outcomes.close()
    assert sink.flushed == {"a": list(range(5))}
    assert [name for name in engine_threads() if not name.startswith("decode-")] == []
    blocking.released.set()
    wait_for(lambda: engine_threads() == [])


def test_an_asset_that_can_be_closed_is() -> None:
    blocking = ClosableStream("b", block_at=0)
    outcomes = Pipeline(Scripted(), {}, {}).run([*videos(1, "a"), blocking])
    assert next(outcomes).asset.id == "a"
    assert blocking.blocked.wait(30)
    outcomes.close()
    assert engine_threads() == []


def test_an_endless_asset_ends_with_the_run() -> None:
    sink = Recording()
    outcomes = Pipeline(Scripted(), {}, {"s": sink}).run([*videos(2, "a"), Stream("b")])
    assert next(outcomes).asset.id == "a"
    with pytest.raises(KeyboardInterrupt):
        outcomes.throw(KeyboardInterrupt())
    assert list(sink.flushed) == ["a"]
    assert engine_threads() == []
