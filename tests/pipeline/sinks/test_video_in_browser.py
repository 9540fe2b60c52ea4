"""Chromium plays the videos of sink=video: every frame, for as long as the source lasts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import launched
from videos import write_video

from pipeline.records import Predictions, Result
from pipeline.sinks.video import Video
from pipeline.sources.auto import auto

pytestmark = pytest.mark.browser


@pytest.fixture
def page() -> Iterator[Any]:
    with launched("--autoplay-policy=no-user-gesture-required") as browser:
        yield browser.new_page()


def test_it_plays(tmp_path: Path, page: Any) -> None:
    (asset,) = auto(str(write_video(tmp_path / "x.mp4", 30, size=(640, 482), audio=True)))
    with Video(tmp_path / "run/video", segment_frames=8) as sink:
        sink.begin(asset)
        for frame in asset.frames():
            sink.write(Result(frame, Predictions.empty(frame.size, ("a",))))
        sink.flush(asset)
    (sink.directory / "page.html").write_text('<video src="x.mp4.mp4" muted></video>')
    page.goto((sink.directory / "page.html").as_uri())
    seen = page.evaluate(
        """async () => {
            const video = document.querySelector('video');
            await new Promise((resolve, reject) => {
                video.onended = resolve;
                video.onerror = () => reject(new Error(video.error.message));
                video.play().catch(reject);
            });
            const quality = video.getVideoPlaybackQuality();
            return {
                size: [video.videoWidth, video.videoHeight], duration: video.duration,
                corrupted: quality.corruptedVideoFrames, sound: video.webkitAudioDecodedByteCount,
            };
        }"""
    )
    assert seen["size"] == [640, 482]
    assert seen["duration"] == pytest.approx(1.001, abs=0.03)
    assert seen["corrupted"] == 0
    assert seen["sound"] > 0
