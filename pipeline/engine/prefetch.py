"""Decodes frames and prepares the model's inputs on threads that run ahead of the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Condition, Lock, Thread
from time import monotonic, perf_counter
from typing import Any

from pipeline.engine.items import Item
from pipeline.errors import (
    DecodeError,
    DeviceLostError,
    InferenceError,
    PartialError,
    PipelineError,
)
from pipeline.failures import failed
from pipeline.protocols import Asset, Closable, Sized, supports
from pipeline.records import Frame

Prepare = Callable[[Frame], Any]
_PATIENCE_S = 2.0  # how long decoders may take to return when the run stops


@dataclass(slots=True, eq=False)
class _Lane:
    """The decoded items of one asset, in order."""

    asset: Asset | None = None  # None if the source raised
    items: deque[Item | BaseException] = field(default_factory=deque)
    frames: int = 0
    nbytes: int = 0


class _End:
    """There are no more items."""


class Ahead:
    """The items of all assets in input order, decoded by several threads before they are needed.

    Each asset has a lane, and items are read from the first lane. All lanes together are bounded in
    bytes and in frames, with two exceptions that keep items flowing: an empty first lane always
    accepts an item, however large, and while an asset with several frames is open, half of the
    bound is reserved for the first lane. So an endless asset that comes later cannot take the
    look-ahead from the one whose turn it is.

    A decoder that blocks cannot be interrupted. When the run stops, its asset is closed if it is
    ``Closable``; if that does not help, its thread is abandoned after two seconds. It is a daemon,
    so it does not keep the process alive.

    Args:
        assets: The assets; iterated lazily, by one thread at a time.
        prepare: Makes the model's input from a frame; ``None`` if the runnable prepares its input.
        threads: Number of assets that are decoded at the same time.
        max_bytes: Maximum size of the queued frames.
        max_items: Maximum number of queued frames, and of open assets.
    """

    def __init__(
        self,
        assets: Iterable[Asset],
        prepare: Prepare | None,
        *,
        threads: int,
        max_bytes: int,
        max_items: int,
    ) -> None:
        self._assets = iter(assets)
        self._prepare = prepare
        self._max_bytes, self._max_items = max_bytes, max_items
        self._nbytes = self._frames = 0
        self._is_exhausted = self._is_stopped = False
        self._lanes: deque[_Lane] = deque()
        self._n_streams = 0  # open lanes of assets with several frames
        self._source = Lock()
        lock = Lock()
        self._room, self._ready = Condition(lock), Condition(lock)
        self._stop: SimpleQueue[None] = SimpleQueue()
        self._threads = [Thread(target=self._wait_for_stop, name="decode-stop", daemon=True)]
        self._threads += [
            Thread(target=self._work, name=f"decode-{i}", daemon=True) for i in range(threads)
        ]

    def __enter__(self) -> Ahead:
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop the threads, even if only some of them were started."""
        self.stop()
        join(self._threads, _PATIENCE_S)

    def items(self, patience_s: Callable[[], float | None]) -> Iterator[Item | None]:
        """Yield all items, or those until ``stop`` is called; for one thread only.

        Args:
            patience_s: Returns how long to wait for the next item before ``None`` is yielded, in
                seconds; ``None`` means without limit.

        Raises:
            BaseException: The source raised it, or a decoder raised it to end the run. The items
                before it are yielded first.
        """
        while not isinstance(item := self._next(patience_s()), _End):
            yield item

    def stop(self) -> None:
        """Unblock all waiting threads, and stop them.

        Safe to call from the main thread: another thread takes the lock, because a signal handler
        could raise while the main thread holds it and leave the others blocked.
        """
        self._stop.put(None)

    def _wait_for_stop(self) -> None:
        self._stop.get()
        with self._room:
            self._is_stopped = True
            self._room.notify_all()
            self._ready.notify_all()
            lanes = list(self._lanes)
        for lane in lanes:
            if isinstance(lane.asset, Closable):
                with suppress(Exception):  # the run is over either way
                    lane.asset.close()

    def _next(self, patience_s: float | None) -> Item | _End | None:
        """Return the next item; ``None`` if there is none in time."""
        deadline_s = None if patience_s is None else monotonic() + patience_s
        with self._ready:
            while not self._is_stopped:
                if self._lanes and self._lanes[0].items:
                    return self._dequeue(self._lanes[0])
                if self._is_exhausted and not self._lanes:
                    break
                wait_s = None if deadline_s is None else deadline_s - monotonic()
                if wait_s is not None and wait_s <= 0:
                    return None
                self._ready.wait(wait_s)
        return _End()

    def _dequeue(self, lane: _Lane) -> Item:
        item = lane.items.popleft()
        if isinstance(item, BaseException):
            raise item
        if item.frame is None:
            self._lanes.popleft()
            self._n_streams -= lane.asset is not None and not lane.asset.is_still
        else:
            self._count(lane, -1, -item.nbytes)
        self._room.notify_all()
        return item

    def _work(self) -> None:
        while (opened := self._open()) is not None:
            asset, lane = opened
            try:
                for item in _decoded(asset, self._prepare):
                    if not self._enqueue(lane, item):
                        return
            except BaseException as exc:  # raised again in the thread that reads the items
                self._enqueue(lane, exc)
                return

    def _open(self) -> tuple[Asset, _Lane] | None:
        """Open the next asset as soon as the queue has room for its frames."""
        with self._source:
            with self._room:
                while not self._is_stopped and self._is_full():
                    self._room.wait()
                if self._is_stopped or self._is_exhausted:
                    return None
            lane, is_stream = _Lane(), False
            try:
                lane.asset = next(self._assets, None)
                is_stream = lane.asset is not None and not lane.asset.is_still
            except BaseException as exc:  # raised again in the thread that reads the items
                lane.asset = None
                lane.items.append(exc)
            with self._ready:
                self._is_exhausted = lane.asset is None
                if lane.asset is not None or lane.items:
                    self._lanes.append(lane)
                self._n_streams += is_stream
                self._ready.notify()
            return None if lane.asset is None else (lane.asset, lane)

    def _is_full(self) -> bool:
        full = self._nbytes >= self._max_bytes or len(self._lanes) >= self._max_items
        return full and bool(self._lanes)

    def _enqueue(self, lane: _Lane, item: Item | BaseException) -> bool:
        """Add an item as soon as it fits; return False if the run stops first."""
        with self._room:
            while not (self._is_stopped or self._fits(lane, item)):
                self._room.wait()
            if self._is_stopped:
                return False
            lane.items.append(item)
            if isinstance(item, Item) and item.frame is not None:
                self._count(lane, 1, item.nbytes)
            if lane is self._lanes[0]:
                self._ready.notify()
            return True

    def _fits(self, lane: _Lane, item: Item | BaseException) -> bool:
        if isinstance(item, BaseException) or item.frame is None:
            return True
        first = self._lanes[0]
        if lane is first and not lane.items:
            return True
        if self._frames >= self._max_items or self._nbytes + item.nbytes > self._max_bytes:
            return False
        if lane is first or not self._n_streams:
            return True
        # the other half is reserved for the first lane
        frames = self._frames - first.frames + 1
        nbytes = self._nbytes - first.nbytes + item.nbytes
        return 2 * frames <= self._max_items and 2 * nbytes <= self._max_bytes

    def _count(self, lane: _Lane, frames: int, nbytes: int) -> None:
        lane.frames += frames
        lane.nbytes += nbytes
        self._frames += frames
        self._nbytes += nbytes


def join(threads: Iterable[Thread], timeout_s: float | None = None) -> None:
    """Wait for the threads that were started to end, all together for up to ``timeout_s``."""
    deadline_s = None if timeout_s is None else monotonic() + timeout_s
    for thread in threads:
        if thread.is_alive():
            thread.join(None if deadline_s is None else max(0.0, deadline_s - monotonic()))


def _decoded(asset: Asset, prepare: Prepare | None) -> Iterator[Item]:
    """Yield the asset's frames and its end; the only ``Exception`` raised is DeviceLostError."""
    error: PipelineError | None = None
    n_frames = 0
    started = perf_counter()
    try:
        for frame in asset.frames():
            item = Item(asset, frame, nbytes=frame.image.nbytes, pending=True)
            item.seconds["decode"] = perf_counter() - started
            if prepare is not None:
                _prepare(item, frame, prepare)
            n_frames += 1
            yield item
            started = perf_counter()
        if not n_frames:
            error = DecodeError("it holds no frame", asset_id=asset.id)
    except DeviceLostError:
        raise
    except Exception as exc:
        error = failed(DecodeError, exc, asset, "decode")
    end = Item(asset, counts=not n_frames, error=error)
    if isinstance(error, PartialError) and n_frames:
        end.error, end.partial = None, error
    end.seconds["decode"] = perf_counter() - started
    yield end


def _prepare(item: Item, frame: Frame, prepare: Prepare) -> None:
    started = perf_counter()
    try:
        item.prepared = prepare(frame)
        item.nbytes += item.prepared.nbytes if supports(item.prepared, Sized) else 0
    except DeviceLostError:
        raise
    except Exception as exc:
        item.error, item.pending = failed(InferenceError, exc, item.asset, "inference"), False
    item.seconds["prepare"] = perf_counter() - started
