"""Decoding, and preparing the model's input, on threads that run ahead of the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from threading import Condition, Lock, Thread
from time import perf_counter
from typing import Any

from pipeline.engine.items import Item
from pipeline.errors import DecodeError, DeviceLostError, InferenceError, PipelineError
from pipeline.failures import failed
from pipeline.protocols import Asset
from pipeline.records import Frame

Prepare = Callable[[Frame], Any]
_Lane = deque[Item | BaseException]


class Ahead:
    """The items of all assets in input order, made by several threads before they are asked for.

    Each asset has a lane. What waits in all lanes is bounded in bytes and in number, but the first
    lane always takes one item: so the one that takes never waits in vain, whatever the later lanes
    hold and however large a frame is.

    Args:
        assets: Asked for the next one by one thread at a time.
        prepare: Makes the model's input of a frame; ``None`` where the model does so itself.
        threads: Assets that are decoded at the same time.
        max_bytes: Of frames that wait.
        max_items: Frames that wait, and assets that are begun.
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
        self._bytes = self._frames = 0
        self._ended = self._closed = False
        self._lanes: deque[_Lane] = deque()
        self._source = Lock()
        lock = Lock()
        self._room, self._ready = Condition(lock), Condition(lock)
        self._stop: SimpleQueue[None] = SimpleQueue()
        self._threads = [Thread(target=self._give_up, name="decode-stop", daemon=True)]
        self._threads += [
            Thread(target=self._work, name=f"decode-{i}", daemon=True) for i in range(threads)
        ]

    def __enter__(self) -> Ahead:
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End them; also where not all of them were started."""
        self.stop()
        join(self._threads)

    def __iter__(self) -> Iterator[Item]:
        """Yield the items until all are taken or ``stop`` is called; for one thread only.

        Raises:
            BaseException: What the source raised, or what a decoder raised to end the run; after
                the items that come before.
        """
        while (item := self._take()) is not None:
            yield item

    def stop(self) -> None:
        """Have everybody who waits here give up.

        For the main thread, in which a signal may raise between any two instructions: with a lock
        in its hands everybody else would wait for ever, so another thread takes that.
        """
        self._stop.put(None)

    def _give_up(self) -> None:
        self._stop.get()
        with self._room:
            self._closed = True
            self._room.notify_all()
            self._ready.notify_all()

    def _take(self) -> Item | None:
        with self._ready:
            while not self._closed:
                if self._lanes and (lane := self._lanes[0]):
                    item = lane.popleft()
                    if isinstance(item, BaseException):
                        raise item
                    if item.frame is None:
                        self._lanes.popleft()
                    else:
                        self._frames -= 1
                        self._bytes -= item.nbytes
                    self._room.notify_all()
                    return item
                if self._ended and not self._lanes:
                    return None
                self._ready.wait()
        return None

    def _work(self) -> None:
        while (opened := self._open()) is not None:
            asset, lane = opened
            try:
                for item in _decoded(asset, self._prepare):
                    if not self._put(lane, item):
                        return
            except BaseException as exc:  # raised again where the items are taken
                self._put(lane, exc)
                return

    def _open(self) -> tuple[Asset, _Lane] | None:
        """Begin the next asset, once there is room for what it will hold."""
        with self._source:
            with self._room:
                while not self._closed and self._is_full():
                    self._room.wait()
                if self._closed or self._ended:
                    return None
            lane: _Lane = deque()
            asset = None
            try:
                asset = next(self._assets, None)
            except BaseException as exc:  # raised again where the items are taken
                lane.append(exc)
            with self._ready:
                self._ended = asset is None
                if asset is not None or lane:
                    self._lanes.append(lane)
                self._ready.notify()
            return None if asset is None else (asset, lane)

    def _is_full(self) -> bool:
        full = self._bytes >= self._max_bytes or len(self._lanes) >= self._max_items
        return full and bool(self._lanes)

    def _put(self, lane: _Lane, item: Item | BaseException) -> bool:
        """Put, as soon as it fits, unless the run stops first: returns whether it went in."""
        with self._room:
            while not (self._closed or self._fits(lane, item)):
                self._room.wait()
            if self._closed:
                return False
            lane.append(item)
            if isinstance(item, Item) and item.frame is not None:
                self._frames += 1
                self._bytes += item.nbytes
            if lane is self._lanes[0]:
                self._ready.notify()
            return True

    def _fits(self, lane: _Lane, item: Item | BaseException) -> bool:
        if isinstance(item, BaseException) or item.frame is None:
            return True
        if lane is self._lanes[0] and not lane:
            return True
        return self._frames < self._max_items and self._bytes + item.nbytes <= self._max_bytes


def join(threads: Iterable[Thread]) -> None:
    """Wait for those that run to end."""
    for thread in threads:
        if thread.is_alive():
            thread.join()


def _decoded(asset: Asset, prepare: Prepare | None) -> Iterator[Item]:
    """Yield the asset's frames and its end; raises no ``Exception`` but DeviceLostError."""
    error: PipelineError | None = None
    n_frames = 0
    started = perf_counter()
    try:
        for frame in asset.frames():
            item = Item(asset, frame, nbytes=frame.image.nbytes, pending=True)
            item.seconds["decode"] = perf_counter() - started
            if prepare is not None:
                _prepared(item, frame, prepare)
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
    end.seconds["decode"] = perf_counter() - started
    yield end


def _prepared(item: Item, frame: Frame, prepare: Prepare) -> None:
    started = perf_counter()
    try:
        item.prepared = prepare(frame)
        item.nbytes += getattr(item.prepared, "nbytes", 0)
    except DeviceLostError:
        raise
    except Exception as exc:
        item.error, item.pending = failed(InferenceError, exc, item.asset, "inference"), False
    item.seconds["prepare"] = perf_counter() - started
