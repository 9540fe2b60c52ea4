"""Chunks of assets: what a worker gets at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.protocols import Asset
from runners.todo import asset_status

_AIM_S = 1.0  # work per chunk: far more than it costs to hand it out, and soon committed


@dataclass(eq=False, slots=True)
class Chunk:
    """Assets that one worker processes before it answers.

    Attributes:
        assets: In input order.
        is_suspect: Whether a worker was lost with it. Then it is a single asset, which is decoded
            in a process of its own, and its worker has nothing else to do.
        n_lost: Number of workers that were lost with it as a suspect.
    """

    assets: Sequence[Asset]
    is_suspect: bool = False
    n_lost: int = 0

    def divided(self) -> list[Chunk]:
        """Return each of its assets as a suspect."""
        return [Chunk([asset], is_suspect=True) for asset in self.assets]


class Chunks:
    """Cuts assets into chunks, which are bounded in number, bytes and expected seconds.

    Args:
        assets: Requested when they are handed out, not before.
        max_assets: Largest number of assets per chunk.
        max_bytes: Largest size of their files together; a larger file is a chunk of its own.
        multiple: The number of assets is a multiple of this, where the input allows it: of the
            batch size, because frames of two chunks never share a forward.
    """

    def __init__(
        self, assets: Iterable[Asset], *, max_assets: int, max_bytes: int, multiple: int = 1
    ) -> None:
        self._assets = iter(assets)
        self._max_assets, self._max_bytes, self._multiple = max_assets, max_bytes, multiple
        self._returned: deque[Chunk] = deque()
        self._next: Asset | None = None  # requested, and too large for the last chunk
        self._size = multiple
        self._is_exhausted = False

    def timed(self, n_assets: int, seconds: float) -> None:
        """Adapt the size of the next chunks to what the last one took; it grows step by step."""
        wanted = n_assets * _AIM_S / max(seconds, 1e-6)
        wanted = int(min(wanted, 2 * self._size, self._max_assets))
        self._size = max(1, wanted // self._multiple) * self._multiple

    def give_back(self, chunks: Iterable[Chunk]) -> None:
        """Hand these out again, before all new ones."""
        self._returned.extend(chunks)

    @property
    def given_back(self) -> list[Asset]:
        """The assets that were handed out, and are to be handed out again."""
        return [asset for chunk in self._returned for asset in chunk.assets]

    def is_empty(self) -> bool:
        """Return whether there are no more assets."""
        return not self._returned and self._peek() is None

    def next(self, *, can_be_suspect: bool) -> Chunk | None:
        """Return the next chunk; ``None`` if there is none, or none for this worker.

        Args:
            can_be_suspect: Whether the worker is idle, as a suspect needs it.
        """
        if self._returned:
            if self._returned[0].is_suspect and not can_be_suspect:
                return None
            return self._returned.popleft()
        assets: list[Asset] = []
        n_bytes = 0
        while len(assets) < self._size and (asset := self._peek()) is not None:
            n_bytes += _size(asset)
            is_alone = not asset.is_still  # a video is long enough
            if assets and (is_alone or n_bytes > self._max_bytes):
                break
            self._next = None
            assets.append(asset)
            if is_alone:
                break
        return Chunk(assets) if assets else None

    def _peek(self) -> Asset | None:
        if self._next is None and not self._is_exhausted:
            self._next = next(self._assets, None)
            self._is_exhausted = self._next is None
        return self._next


def _size(asset: Asset) -> int:
    with suppress(OSError, ValueError, PipelineError):  # processing it will say why
        return asset_status(asset)[0] or 0
    return 0
