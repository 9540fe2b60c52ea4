"""Videos in a watched folder: decoded in a worker process, and skipped by ``source=images``."""

from __future__ import annotations

from pathlib import Path

import pytest
from videos import cut, write_video
from watched import Watched


def test_videos_are_processed_as_they_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watched(tmp_path, monkeypatch)
    try:
        watch.start("source.stride=3")  # in the process of a decoder, as by default
        write_video(tmp_path / "x.mp4", audio=True).rename(watch.inbox / "a.mp4")
        cut(watch.inbox / "a.mp4", 0.9, tmp_path / "x.mp4").rename(watch.inbox / "b.mp4")
        watch.wait_for_assets("a.mp4", "b.mp4")
        report = watch.stop()
    finally:
        watch.abandon()
    assert report.counts["done"] == 2
    assert [line["pts"] for line in watch.lines() if line["asset"] == "a.mp4"] == [
        0, 3003, 6006, 9009,
    ]  # fmt: skip
    (failure,) = watch.lines("failures.jsonl")
    assert (failure["asset"], failure["error"]) == ("b.mp4", "PartialError")
    assert any("b.mp4: will be checked again" in each for each in caplog.messages)


def test_a_source_of_images_skips_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watched(tmp_path, monkeypatch)
    write_video(watch.inbox / "a.mp4", n=1)
    try:
        watch.start("source=images", "runner.max_passes=1")
        report = watch.wait()
    finally:
        watch.abandon()
    assert report.skipped == {"video": 1}
