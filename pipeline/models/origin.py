"""Where a model's weights come from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.models.config_file import ConfigFile
from pipeline.models.download import download, local_path
from pipeline.models.weights.weights import SUFFIXES, refuse_foreign
from pipeline.models.zoo import zoo_url
from pipeline.redaction import redacted_text
from pipeline.system.files import sha256_file


@dataclass(frozen=True, slots=True)
class Origin:
    """Where weights come from, and where they lie or will lie.

    Attributes:
        kind: ``zoo``, ``url``, ``file``, ``store`` or ``random``.
        path: The file; ``None`` for random weights. A download may not be there yet.
        url: Its address, if it is downloaded.
    """

    kind: str
    path: Path | None = None
    url: str | None = None

    def check(self) -> None:
        """Look whether the weights can be had, without the network.

        Raises:
            ConfigError: The file is missing, or is something that is no weight file; says what.
        """
        if self.path is None:
            return
        shown = redacted_text(self.url) if self.url else str(self.path)
        if self.path.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"weights '{shown}' must end in {', '.join(SUFFIXES)}")
        if self.kind == "file":
            try:
                refuse_foreign(self.path)
            except FileNotFoundError as exc:
                raise ConfigError(
                    f"weights '{shown}' is not a file; give zoo, random, a path or an http(s) "
                    "address"
                ) from exc
            except (OSError, ValueError) as exc:  # a NUL in the path
                reason = getattr(exc, "strerror", None) or exc
                raise ConfigError(f"cannot read weights '{shown}': {reason}") from exc

    def fetch(self, downloads: Path) -> Path | None:
        """Return the file, downloaded first if need be; ``None`` for random weights."""
        return download(self.url, downloads) if self.url else self.path

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the file in hexadecimal digits; ``None`` where there is no file (yet)."""
        if self.path is None or not self.path.is_file():
            return None
        stat = self.path.stat()
        return _sha256(self.path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_file(path)


def origin(weights: str, config: ConfigFile, downloads: Path, mirror: str | None) -> Origin:
    """Read what ``model.weights`` says.

    Args:
        weights: ``zoo``, ``random``, a path or an http(s) address.
        config: The model's config.
        downloads: Where downloads are kept.
        mirror: What to put in place of the zoo's own address.

    Raises:
        ConfigError: The zoo has no weights for the config, or the address is malformed.
    """
    if weights == "random":
        return Origin("random")
    if weights == "zoo":
        url = zoo_url(config.name, mirror) if config.in_zoo else None
        if url is None:
            raise ConfigError(
                f"the model zoo has no weights for the config '{config.name}'; set model.weights "
                "to a file, an address or 'random'"
            )
        return Origin("zoo", local_path(url, downloads), url)
    if "://" in weights:
        return Origin("url", local_path(weights, downloads), weights)
    return Origin("file", Path(os.path.expanduser(weights)))  # noqa: PTH111 - that of Path raises
