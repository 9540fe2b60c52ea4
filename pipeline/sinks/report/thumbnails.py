"""Small images of the inputs of a run, read from where the run found them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, OutputError, PipelineError, printable
from pipeline.protocols import Asset
from pipeline.sinks.report.sample import Key

THUMBNAIL_PX = 512
_QUALITY = 78
_MAX_THREADS = 4
Found = tuple[Key, bytes]


class Thumbnails:
    """Makes thumbnails.

    Args:
        assets: The inputs of the run, in its order.
        longer_side: In pixels; smaller images keep their size.

    Attributes:
        problem: Why the first of the missing images is missing; empty if there are all.
    """

    def __init__(self, assets: Iterable[Asset], longer_side: int) -> None:
        self._assets = assets
        self._longer_side = longer_side
        self.problem = ""

    def of(self, wanted: Mapping[str, Sequence[int]]) -> Iterator[Found]:
        """Yield the thumbnails in input order, as JPEG, without those that cannot be read.

        Args:
            wanted: Indices of frames by asset, ascending.
        """
        if not wanted:
            return
        try:
            assets = (asset for asset in self._assets if asset.id in wanted)
            yield from self._in_parallel(assets, wanted)
        except (ConfigError, OutputError) as exc:
            self._note(str(exc).removeprefix("root: "))

    def _in_parallel(
        self, assets: Iterator[Asset], wanted: Mapping[str, Sequence[int]]
    ) -> Iterator[Found]:
        n_threads = min(os.cpu_count() or 1, _MAX_THREADS)
        with ThreadPoolExecutor(n_threads, "thumbnails") as pool:
            waiting: deque[Future[list[Found]]] = deque()
            for asset in assets:
                waiting.append(pool.submit(self._of_asset, asset, wanted[asset.id]))
                if len(waiting) > 2 * n_threads:
                    yield from waiting.popleft().result()
            for future in waiting:
                yield from future.result()

    def _of_asset(self, asset: Asset, indices: Sequence[int]) -> list[Found]:
        found = []
        try:
            for frame in asset.frames():
                if frame.index in indices:
                    found.append(((asset.id, frame.index), self._jpeg(frame.image)))
                if frame.index >= indices[-1]:
                    break
        except (PipelineError, OSError) as exc:
            self._note(f"{asset.id}: {exc}")
        return found

    def _note(self, problem: str) -> None:
        # these are the words of a source, whose option is this sink's too
        self.problem = self.problem or printable(problem).replace("source.root", "sink.report.root")

    def _jpeg(self, image: NDArray[np.uint8]) -> bytes:
        import cv2  # takes 0.1 s, which most commands do not need

        height, width = image.shape[:2]
        scale = self._longer_side / max(height, width)
        small: Any = image
        if scale < 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        _, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        return jpeg.tobytes()
