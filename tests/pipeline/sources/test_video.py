"""The source for videos, and images with several pages: what is listed, and the frames."""

from __future__ import annotations

from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from videos import number_of, picture, write_video

from pipeline.errors import ConfigError, DecodeError, PartialError
from pipeline.protocols import Asset, ReadableAsset, VersionedAsset
from pipeline.records import Frame
from pipeline.sources import FramesAsset, ImageAsset, Images, Manifest, Several, Video, kinds
from pipeline.sources.auto import auto
from pipeline.sources.decode.workers import DecodeWorkers

SIZE = (64, 48)


def saved(path: Path, n: int = 3, **options: Any) -> Path:
    """Write an image of several pages."""
    pages = [Image.fromarray(picture(8 * i, SIZE)[..., ::-1]) for i in range(n)]
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.mp4", "sub/C.MOV"):
        write_video(folder / name.lower(), n=2)
    (folder / "sub/c.mov").rename(folder / "sub/C.MOV")
    saved(folder / "a.tiff", 2)
    saved(folder / "d.png", 1)
    (folder / "e.txt").touch()
    return folder


def frames(asset: Asset) -> list[Frame]:
    return list(asset.frames())


def test_a_directory_of_both(mixed: Path) -> None:
    source = auto(str(mixed))
    assets = list(source)
    assert [asset.id for asset in assets] == ["a.tiff", "b.mp4", "d.png", "sub/C.MOV"]
    assert [asset.is_still for asset in assets] == [True, False, True, False]
    assert [entry.path for entry in source.skipped()] == ["e.txt"]
    assert [len(frames(asset)) for asset in assets] == [1, 2, 1, 2]


def test_only_videos_or_only_images(mixed: Path) -> None:
    source = Video(str(mixed))
    assert [asset.id for asset in source] == ["b.mp4", "sub/C.MOV"]
    reasons = {entry.path: entry.reason for entry in source.skipped()}
    assert reasons == {"a.tiff": "image", "d.png": "image", "e.txt": "not an image (.txt)"}
    images = Images(str(mixed))
    assert [asset.id for asset in images] == ["a.tiff", "d.png"]
    assert {entry.reason for entry in images.skipped()} == {"video", "not an image (.txt)"}
    assert [asset.id for asset in auto(f"{mixed}/**/*.MOV")] == ["sub/C.MOV"]


def test_without_pyav_a_directory_says_what_is_missing(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "has_pyav", lambda: False)
    source = auto(str(mixed))
    assert [asset.id for asset in source] == ["a.tiff", "d.png"]
    assert "video (needs the extra video)" in {entry.reason for entry in source.skipped()}


def test_a_single_file_with_any_name(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.mp4", n=2).rename(tmp_path / "recording")
    (asset,) = Video(str(path))
    assert asset.id == "recording"
    assert len(frames(asset)) == 2


def test_lists_and_several_inputs(mixed: Path) -> None:
    listed = mixed.parent / "list.txt"
    listed.write_text(f"{mixed}/b.mp4\n{mixed}/d.png\n{mixed}/gone.mp4\n")
    source = Manifest(str(listed))
    assert [type(asset) for asset in source] == [FramesAsset, ImageAsset, FramesAsset]
    with pytest.raises(DecodeError, match="no such file"):
        frames(list(source)[2])
    several = Several([auto(str(mixed / "b.mp4"), stride=2), auto(str(mixed / "sub"), stride=2)])
    assert [asset.id for asset in several] == ["b.mp4", "sub/C.MOV"]
    assert [len(frames(asset)) for asset in several] == [1, 1]


def test_an_asset_knows_its_file(mixed: Path) -> None:
    (asset,) = auto(str(mixed / "b.mp4"))
    assert isinstance(asset, VersionedAsset)
    assert isinstance(asset, ReadableAsset)
    assert asset.size_bytes is None
    content = (mixed / "b.mp4").read_bytes()
    first = next(iter(asset.frames()))
    assert (first.asset_id, first.index, first.pts, first.time_s) == ("b.mp4", 0, 0, 0.0)
    assert asset.size_bytes == len(content)
    assert asset.mtime_ns == (mixed / "b.mp4").stat().st_mtime_ns
    assert asset.fingerprint() == sha256(content).hexdigest()


def test_a_damaged_file_has_its_version_and_id(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(b"no video" * 99)
    (asset,) = auto(str(path))
    with pytest.raises(DecodeError) as caught:
        frames(asset)
    assert caught.value.asset_id == "x.mp4"
    assert isinstance(asset, FramesAsset)
    assert asset.size_bytes == 8 * 99


@pytest.mark.parametrize(
    ("name", "options", "times"),
    [
        ("x.gif", {"duration": [40, 70, 100]}, [0, 40, 110]),
        ("x.apng", {"duration": [40, 70, 100]}, [0, 40, 110]),
        ("x.webp", {"duration": [40, 70, 100], "lossless": True}, [0, 40, 110]),
        ("x.tif", {}, None),
        ("x.tiff", {"compression": "tiff_lzw"}, None),
    ],
)
def test_pages(tmp_path: Path, name: str, options: dict[str, Any], times: Any) -> None:
    path = saved(tmp_path / name, **options)
    (still,) = auto(str(path))
    assert len(frames(still)) == 1
    (asset,) = auto(str(path), pages="all")
    assert not asset.is_still
    found = frames(asset)
    assert [number_of(each.image) for each in found] == [0, 8, 16]
    np.testing.assert_array_equal(found[0].image, frames(still)[0].image)
    if times is None:
        assert {each.pts for each in found} == {None}
    else:
        assert [(each.pts, each.time_base) for each in found] == [
            (pts, Fraction(1, 1000)) for pts in times
        ]


def test_pages_of_other_images(tmp_path: Path) -> None:
    one = saved(tmp_path / "one.tif", 1)
    (asset,) = Images(str(one), pages="all")
    assert (asset.is_still, len(frames(asset))) == (False, 1)
    (png,) = Images(str(saved(tmp_path / "x.png", 1)), pages="all")
    assert png.is_still
    jpeg = tmp_path / "jpeg.gif"
    Image.fromarray(picture(0, SIZE)).save(jpeg, "JPEG")
    (asset,) = Images(str(jpeg), pages="all")
    assert len(frames(asset)) == 1


def test_pages_in_a_worker_and_every_second_one(tmp_path: Path) -> None:
    (asset,) = auto(str(saved(tmp_path / "x.gif", 4)), pages="all", stride=2)
    assert isinstance(asset, FramesAsset)
    here = frames(asset)
    with DecodeWorkers(1, memory_mb=512, timeout_s=60) as workers:
        asset.reader = workers
        there = frames(asset)
    assert [number_of(each.image) for each in there] == [0, 16]
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one.image, other.image)


def test_a_page_that_is_missing(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.gif")
    path.write_bytes(path.read_bytes()[:-40])
    (asset,) = auto(str(path), pages="all")
    with pytest.raises(DecodeError, match=r"(truncated|broken) GIF") as caught:
        frames(asset)
    assert not isinstance(caught.value, PartialError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pages": "some"}, "pages: expected first or all, got 'some'"),
        ({"stride": 1.5}, "stride: expected a whole number"),
        ({"hardware": True}, "hardware: expected auto or none"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        auto("x.mp4", **options)
