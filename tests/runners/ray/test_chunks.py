"""Chunks are bounded, and adapt to how long they take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from batches import write_images

from pipeline.sources.asset import ImageAsset
from runners.ray.chunks import Chunk, Chunks


@dataclass(slots=True)
class Clip(ImageAsset):
    is_still: bool = False


def assets(folder: Path, n: int) -> list[ImageAsset]:
    names = [f"{i}.png" for i in range(n)]
    write_images(folder, *names)
    return [ImageAsset(name, folder / name) for name in names]


def sizes(chunks: Chunks, took_s: float = 0.01) -> list[int]:
    found = []
    while (chunk := chunks.next(can_be_suspect=True)) is not None:
        found.append(len(chunk.assets))
        chunks.timed(len(chunk.assets), took_s * len(chunk.assets))
    assert chunks.is_empty()
    return found


@pytest.mark.parametrize(
    ("options", "took_s", "expected"),
    [
        ({"max_assets": 8, "max_bytes": 10**9}, 0.01, [1, 2, 4, 8, 8, 7]),
        ({"max_assets": 8, "max_bytes": 10**9}, 5.0, [1] * 30),
        ({"max_assets": 64, "max_bytes": 10**9}, 0.3, [1, 2, *[3] * 9]),
        ({"max_assets": 64, "max_bytes": 1}, 0.01, [1] * 30),
        ({"max_assets": 8, "max_bytes": 10**9, "multiple": 3}, 0.01, [3, 6, 6, 6, 6, 3]),
        ({"max_assets": 2, "max_bytes": 10**9, "multiple": 4}, 0.01, [4] * 7 + [2]),
    ],
)
def test_sizes(tmp_path: Path, options: dict[str, int], took_s: float, expected: list[int]) -> None:
    assert sizes(Chunks(assets(tmp_path, 30), **options), took_s) == expected


def test_a_video_is_alone(tmp_path: Path) -> None:
    images = assets(tmp_path, 6)
    mixed = [*images[:3], Clip("v", tmp_path / "v.mp4"), *images[3:]]
    chunks = Chunks(mixed, max_assets=8, max_bytes=10**9, multiple=2)
    assert sizes(chunks) == [2, 1, 1, 3]


def test_suspects_need_an_idle_worker(tmp_path: Path) -> None:
    chunks = Chunks(assets(tmp_path, 3), max_assets=8, max_bytes=10**9, multiple=2)
    first = chunks.next(can_be_suspect=True)
    assert first is not None
    chunks.give_back(first.divided())
    assert [asset.id for asset in chunks.given_back] == ["0.png", "1.png"]
    assert chunks.next(can_be_suspect=False) is None
    again = [chunks.next(can_be_suspect=True) for _ in range(4)]
    ids = [[asset.id for asset in chunk.assets] for chunk in again if chunk is not None]
    assert ids == [["0.png"], ["1.png"], ["2.png"]]
    assert [chunk.is_suspect for chunk in again if chunk is not None] == [True, True, False]


def test_assets_are_requested_late(tmp_path: Path) -> None:
    requested = []

    def listed():  # type: ignore[no-untyped-def]
        for asset in assets(tmp_path, 9):
            requested.append(asset.id)
            yield asset

    chunks = Chunks(listed(), max_assets=4, max_bytes=10**9)
    assert isinstance(chunks.next(can_be_suspect=True), Chunk)
    assert requested == ["0.png"]
