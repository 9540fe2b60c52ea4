"""Which source reads which input."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.sources import Images, Manifest
from pipeline.sources.auto import auto
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


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        auto("rtsp://user:secret@host/stream")
    assert "secret" not in str(caught.value)
