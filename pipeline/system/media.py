"""Opens video files with PyAV, which is optional: safely, whatever they contain or are called."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from pipeline.errors import ConfigError

INSTALL = "Run: pip install 'd2run[video]'"
# Containers that hold their frames themselves. Playlists, which name other files and URLs, are not
# among them.
_CONTAINERS = (
    "mov,matroska,avi,mpeg,mpegts,flv,asf,ogg,ivf,nut,mxf,dv,h264,hevc,obu,mpegvideo,m4v,"
    "yuv4mpegpipe"
)
_SAFE = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}


@lru_cache(maxsize=1)
def has_pyav() -> bool:
    """Return whether PyAV is installed."""
    return find_spec("av") is not None


def check_pyav(what: str) -> None:
    """Raise ConfigError with the install command if PyAV is missing."""
    if not has_pyav():
        raise ConfigError(f"{what} needs PyAV, which is not installed. {INSTALL}")


def open_media(file: int, **options: Any) -> Any:
    """Open a container for reading.

    Args:
        file: Descriptor of the file, so that its name does not matter to FFmpeg.
        options: Further arguments of ``av.open``.

    Raises:
        av.error.FFmpegError: It is not a container that holds its frames itself.
    """
    import av

    return av.open(media_name(file), options=_SAFE, **options)


def media_name(file: int) -> str:
    """Return FFmpeg's name of an open file."""
    return f"file:/dev/fd/{file}"
