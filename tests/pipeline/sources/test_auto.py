"""Which source reads which input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.sources import Images, Manifest
from pipeline.sources.auto import auto
from pipeline.sources.stream import Stream
from pipeline.system import media


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("dir", "odd.txt", "odd.mp4", "odd.json"):
        (tmp_path / folder).mkdir()


@pytest.mark.parametrize(
    ("input", "kind"),
    [
        ("-", Manifest),
        ("list.txt", Manifest),
        ("LIST.CSV", Manifest),
        ("dir", Images),
        ("dir/", Images),
        ("odd.txt", Images),
        ("odd.mp4", Images),
        ("odd.json/", Images),
        ("x.jpg", Images),
        ("x.mp4", Images),
        ("dir/*.MOV", Images),
        ("no-extension", Images),
        ("dir/**/*.jpg", Images),
        ("C:x.jpg", Images),
        ("a" * 300, Images),
    ],
)
def test_source(input: str, kind: type) -> None:
    source = auto(input, exif=False, max_pixels=5)  # looks, but does not mind what is missing
    assert type(source) is kind
    assert (source.input, source.exif, source.max_pixels) == (input, False, 5)


def test_recursive_reaches_the_folder() -> None:
    source = auto("dir", recursive=False)
    assert isinstance(source, Images)
    assert not source.recursive


@pytest.mark.parametrize(
    ("input", "message"),
    [
        pytest.param("", "input is missing", id="empty"),
    ],
)
def test_refused(input: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        auto(input)


def test_a_video_without_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "has_pyav", lambda: False)
    for name in ("x.mp4", "dir/*.MOV"):
        with pytest.raises(ConfigError, match=r"needs PyAV.* pip install 'd2run\[video\]'"):
            auto(name)
    assert isinstance(auto("dir"), Images)


@pytest.mark.parametrize(
    ("input", "name"),
    [
        ("rtsp://user:secret@host/stream?token=secret", "host/stream"),
        ("RTSP://host:8554/a//../b c/", "host-8554/a/b_c"),
        ("rtsps://[::1]/x", "1/x"),
        ("http://host/video.mjpg?secret", "host/video.mjpg"),
        ("https://host/v.MP4#x", "host/v.MP4"),
        ("udp://@:5000", "5000"),
        ("0", "video0"),
        ("007", "video7"),
        ("/dev/video1", "video1"),
    ],
)
def test_streams(input: str, name: str) -> None:
    source = auto(input, stride=2, fps=5)
    assert isinstance(source, Stream)
    assert source.name == name
    assert (source.options.stride, source.options.fps) == (2, 5)
    assert "secret" not in f"{source.name} {source.origins()} {source.warnings}"


def test_a_number_that_is_a_file() -> None:
    Path("0").mkdir()
    assert isinstance(auto("0"), Images)


@pytest.mark.parametrize("option", [{"start_s": 1}, {"end_s": 1}, {"keyframes": True}])
def test_options_that_do_not_apply_to_streams(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(option))}: it does not apply to a stream"):
        auto("rtsp://host/x", **option)


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        auto("rtsp://user:secret@/stream")
    assert "secret" not in str(caught.value)
