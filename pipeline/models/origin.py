"""The origin of a model's weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.models.config_file import ConfigFile
from pipeline.models.download import download, local_path
from pipeline.models.weights.weights import SUFFIXES, reject_foreign
from pipeline.models.zoo import zoo_url
from pipeline.redaction import redacted_text
from pipeline.system.files import sha256_file


@dataclass(frozen=True, slots=True)
class Origin:
    """Where weights come from, and their local path.

    Attributes:
        kind: ``zoo``, ``url``, ``file``, ``store`` or ``random``.
        path: The file; ``None`` for random weights. A download may not exist yet.
        url: The address of a download.
    """

    kind: str
    path: Path | None = None
    url: str | None = None

    def check(self) -> None:
        """Check that the weights can be used, without the network.

        Raises:
            ConfigError: The file is missing or not a weight file.
        """
        if self.path is None:
            return
        shown = redacted_text(self.url) if self.url else str(self.path)
        if self.path.suffix.lower() not in SUFFIXES:
            raise ConfigError(
                f"model.weights: expected a file ending in {', '.join(SUFFIXES)}, got '{shown}'"
            )
        if self.kind == "file":
            try:
                reject_foreign(self.path)
            except FileNotFoundError as exc:
                raise ConfigError(
                    f"model.weights: no such file: '{shown}'. Give zoo, random, a path or an "
                    "http(s) address"
                ) from exc
            except (OSError, ValueError) as exc:  # a NUL in the path
                reason = getattr(exc, "strerror", None) or exc
                raise ConfigError(f"model.weights: cannot read '{shown}': {reason}") from exc

    def fetch(self, downloads: Path) -> Path | None:
        """Return the file, downloaded if necessary; ``None`` for random weights."""
        return download(self.url, downloads) if self.url else self.path

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the file in hexadecimal digits; ``None`` if the file does not exist."""
        if self.path is None or not self.path.is_file():
            return None
        stat = self.path.stat()
        return _sha256(self.path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_file(path)


def parse_origin(weights: str, config: ConfigFile, downloads: Path, mirror: str | None) -> Origin:
    """Return the origin that ``model.weights`` names.

    Args:
        weights: ``zoo``, ``random``, a path or an http(s) address.
        config: The model's config.
        downloads: Directory for downloads.
        mirror: Address of a mirror of the zoo.

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
                "to a file, an http(s) address or random"
            )
        return Origin("zoo", local_path(url, downloads), url)
    if "://" in weights:
        return Origin("url", local_path(weights, downloads), weights)
    return Origin("file", Path(os.path.expanduser(weights)))  # noqa: PTH111 - Path.expanduser raises
