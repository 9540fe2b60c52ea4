"""Which frames share a forward: a function of the input alone."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from journals import run_into
from scripted import Halved, ListedAsset, Scripted, Stepped, run

from pipeline.errors import DecodeError
from pipeline.records import Frame

A, B, C = (8, 8), (8, 16), (16, 8)


def stills(*sizes: tuple[int, int]) -> list[ListedAsset]:
    return [ListedAsset(f"{i}", size=size) for i, size in enumerate(sizes)]


def batches_of(runnable: Scripted, assets: Sequence[ListedAsset]) -> list[str]:
    outcomes = run(assets, runnable=runnable)
    assert [outcome.asset.id for outcome in outcomes] == [asset.id for asset in assets]
    return [" ".join(batch) for batch in runnable.batches]


@pytest.mark.parametrize(
    ("by_shape", "sizes", "batches"),
    [
        pytest.param(False, [A] * 5, ["0 1", "2 3", "4"], id="neighbors"),
        pytest.param(False, [A, B, A, A], ["0", "1", "2 3"], id="only neighbors of one shape"),
        pytest.param(True, [A] * 5, ["0 1", "2 3", "4"], id="one shape"),
        pytest.param(True, [A, B, A, B], ["0 2", "1 3"], id="two shapes"),
        pytest.param(True, [A, B, C, A, B], ["0 3", "1 4", "2"], id="the rest in order"),
        # a window is of eight: what is alone in it does not wait for the next
        pytest.param(True, [B, *[A] * 7, B], ["1 2", "3 4", "5 6", "0", "7", "8"], id="windows"),
    ],
)
def test_batches_of_two(by_shape: bool, sizes: list[tuple[int, int]], batches: list[str]) -> None:
    runnable = Stepped(batch_size=2, batch_by_shape=by_shape)
    assert batches_of(runnable, stills(*sizes)) == batches


def test_large_images_end_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engine.batches._WINDOW_BYTES", 3 * 8 * 8 * 3)
    runnable = Stepped(batch_size=4, batch_by_shape=True)
    assert batches_of(runnable, stills(*[A] * 7)) == ["0 1 2", "3 4 5", "6"]


def test_a_runnable_without_steps_batches_neighbors_of_any_shape() -> None:
    assert batches_of(Scripted(batch_size=2), stills(A, B, C)) == ["0 1", "2"]
    assert batches_of(Scripted(batch_size=2, batch_by_shape=True), stills(A, B, A)) == ["0 2", "1"]


@pytest.mark.parametrize(
    ("of_runnable", "of_pipeline", "batches"),
    [(2, 3, ["0 1", "2"]), (None, 3, ["0 1 2"]), (None, "auto", ["0", "1", "2"])],
)
def test_the_runnable_says_how_many(
    of_runnable: int | None, of_pipeline: int | str, batches: list[str]
) -> None:
    runnable = Stepped(batch_size=of_runnable)
    run(stills(A, A, A), runnable=runnable, batch_size=of_pipeline)
    assert [" ".join(batch) for batch in runnable.batches] == batches


def test_the_batch_size_is_read_once_the_runnable_is_entered() -> None:
    class Auto(Stepped):
        def __enter__(self) -> Auto:
            self.batch_size = 3
            return self

    with Auto(batch_size="auto") as runnable:
        assert batches_of(runnable, stills(A, A, A)) == ["0 1 2"]


def test_assets_without_frames_fill_the_window() -> None:
    broken = [ListedAsset(f"b{i}", n_frames=0, error=DecodeError("bad")) for i in range(8)]
    runnable = Stepped(batch_size=2, batch_by_shape=True)
    # the first must not wait for the next of its shape behind any number of broken ones
    assets = [*stills(A), *broken, ListedAsset("last", size=A)]
    assert batches_of(runnable, assets) == ["0", "last"]


class Unsteady(Stepped):
    """A model with random delays."""

    def prepare(self, frame: Frame) -> Halved:
        time.sleep(random.random() * 0.003)
        return super().prepare(frame)

    def forward(self, prepared: Sequence[Halved]) -> list[float]:
        time.sleep(random.random() * 0.003)
        return super().forward(prepared)


def predicted(
    directory: Path, threads: int, queue_mb: float, by_shape: bool, forwards: int = 1
) -> tuple[list[list[str]], bytes]:
    """Return the batches and the content of predictions.jsonl."""
    sizes = random.Random(0).choices([A, B, C], [5, 2, 1], k=40)
    assets = [
        ListedAsset(f"{i}", n_frames=i % 3, size=size, error=None if i % 7 else DecodeError("bad"))
        for i, size in enumerate(sizes)
    ]
    runnable = Unsteady(batch_size=3, batch_by_shape=by_shape, guilty=("10",), forwards=forwards)
    options = {"decode_threads": threads, "queue_mb": queue_mb}
    outcomes = run_into(directory, runnable, {}, assets, **options)
    assert [outcome.asset.id for outcome in outcomes] == [asset.id for asset in assets]
    return sorted(runnable.batches), (directory / "predictions.jsonl").read_bytes()


@pytest.mark.parametrize("by_shape", [True, False])
def test_threads_and_queues_change_nothing(tmp_path: Path, by_shape: bool) -> None:
    first = predicted(tmp_path, 1, 256, by_shape)
    assert first[1].count(b"\n") > 20
    for threads in (1, 4):
        for queue_mb in (0.0001, 0.002, 256):
            for forwards in (1, 3):
                assert predicted(tmp_path, threads, queue_mb, by_shape, forwards) == first


def test_the_composition_of_batches_shows_in_the_results(tmp_path: Path) -> None:
    # otherwise the test above would prove nothing
    assert predicted(tmp_path, 1, 256, True)[1] != predicted(tmp_path, 1, 256, False)[1]
