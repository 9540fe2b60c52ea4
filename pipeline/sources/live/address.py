"""Recognizes streams, and names them without the secrets that their addresses contain."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.errors import ConfigError
from pipeline.redaction import redacted_text
from pipeline.sources.scan import VIDEOS

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "tcp")
_WEB = ("http", "https")
_ENDINGS = (*VIDEOS, ".mjpg", ".mjpeg", ".m3u8")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_DEVICE = re.compile(r"/dev/video(\d+)")
_ODD = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a stream comes from.

    Attributes:
        url: What FFmpeg opens; may contain a password.
        shown: The same without secrets.
        name: The name in ids: host and path, or ``video0``; without user, password and query.
        format: FFmpeg's name of the input format; ``None`` to detect it.
    """

    url: str
    shown: str
    name: str
    format: str | None = None


def is_stream(text: str) -> bool:
    """Return whether an input is a stream according to its form: an address, or a camera."""
    scheme = _scheme(text)
    if scheme in _WEB:
        return urlsplit(text).path.lower().endswith(_ENDINGS)
    return scheme in SCHEMES or bool(_device(text))


def address_of(text: str) -> Address:
    """Return the address that a user wrote.

    Raises:
        ConfigError: It is not the address of a stream.
    """
    if device := _device(text):
        return Address(device, device, Path(device).name, "v4l2")
    shown = redacted_text(text)
    if _scheme(text) not in (*SCHEMES, *_WEB):
        raise ConfigError(
            f"input: '{shown}' is not a stream; expected an address such as rtsp://host/path or "
            "http://host/video.mjpg, or a camera such as 0 or /dev/video0"
        )
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as exc:
        raise ConfigError(f"input: '{shown}': the address is not valid") from exc
    if not host and _scheme(text) not in ("udp", "srt", "tcp"):
        raise ConfigError(f"input: '{shown}': the address has no host")
    words = [f"{host}-{port}" if port else host, *unquote(parts.path).split("/")]
    return Address(text, shown, clean_name(words) or "stream")


def clean_name(words: list[str]) -> str:
    """Return words as the directories of an id."""
    clean = (_ODD.sub("_", word).strip("._-") for word in words)
    return "/".join(word for word in clean if word)


def _scheme(text: str) -> str:
    found = _SCHEME.match(text)
    return found[1].lower() if found else ""


def _device(text: str) -> str:
    """Return the path of a camera that is given by path or number; empty if it is none."""
    if _DEVICE.fullmatch(text):
        return text
    is_number = text.isascii() and text.isdigit() and len(text) <= 3
    return f"/dev/video{int(text)}" if is_number and not Path(text).exists() else ""
