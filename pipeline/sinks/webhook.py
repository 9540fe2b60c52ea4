"""Posts the records of each asset to a URL."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import BinaryIO

from pipeline.encoding import encode, without_image_id
from pipeline.errors import ConfigError, SinkError
from pipeline.protocols import Asset
from pipeline.records import Result
from pipeline.sinks.delivery.courier import Courier
from pipeline.sinks.delivery.endpoint import Endpoint
from pipeline.system.files import output_name
from pipeline.system.output_folder import OutputFolder
from pipeline.validation import check_number, check_whole

_log = logging.getLogger(__name__)


class Webhook:
    """Posts each asset's lines of ``predictions.jsonl``, without image ids, to a URL.

    The lines are first written to ``<directory>/<asset id>.jsonl``, and posted in the background
    once they are durable. A file is removed when the receiver has answered with a status of 2xx.
    What is not delivered when the run ends is kept, and posted by the next run into this output.
    So every asset is delivered at least once, also if the process is killed.

    Args:
        directory: Directory of the files, in the run directory.
        url: Address of the receiver, ``http`` or ``https``.
        url_env: Name of the environment variable with the address, instead of ``url``: for an
            address that is itself a secret, because ``url`` is recorded.
        min_score: Post only instances with at least this score, 0 to 1.
        secret_env: Name of the environment variable with the key of the signature, an HMAC-SHA256
            of the body; ``None`` for no signature.
        timeout_s: Longest wait for a connection, and for each part of an answer.
        backoff_s: Wait after a failure; doubled after each further one.
        max_backoff_s: Longest wait after a failure.
        max_spool_mb: Largest total size of the files. Assets for which there is no space fail, so
            the next run processes them again.
        drain_s: Longest wait for the receiver at the end of a run.

    Raises:
        ConfigError: An option has an invalid value, or the environment variable is not set.
    """

    needs_pixels = False

    def __init__(
        self,
        directory: str | Path,
        url: str | None = None,
        url_env: str | None = None,
        min_score: float = 0.0,
        secret_env: str | None = None,
        timeout_s: float = 10.0,
        backoff_s: float = 1.0,
        max_backoff_s: float = 60.0,
        max_spool_mb: int = 1024,
        drain_s: float = 30.0,
    ) -> None:
        check_number("min_score", min_score, 0, 1)
        check_number("timeout_s", timeout_s, 0.01, 3600)
        check_number("backoff_s", backoff_s, 0.01, 3600)
        check_number("max_backoff_s", max_backoff_s, backoff_s, 86400)
        check_whole("max_spool_mb", max_spool_mb, 1)
        check_number("drain_s", drain_s, 0, 86400)
        if (url is None) == (url_env is None):
            raise ConfigError("url: set either url or url_env")
        address = url if url is not None else _variable("url_env", url_env)
        secret = None
        if secret_env is not None:
            secret = _variable("secret_env", secret_env).encode(errors="surrogateescape")
        self.directory = Path(directory)
        self.min_score = min_score
        self.outputs: tuple[str, ...] = (f"{self.directory.name}/",)
        self._receiver = address, secret, timeout_s
        try:
            Endpoint(*self._receiver)  # checks the address
        except ConfigError:
            if url_env is None:
                raise
            raise ConfigError(
                "url_env: the variable does not hold an http:// or https:// address without user "
                "and password"
            ) from None
        self._backoff_s, self._max_backoff_s, self._drain_s = backoff_s, max_backoff_s, drain_s
        self._max_bytes = max_spool_mb * 1_000_000
        self._folder = OutputFolder(self.directory.parent)
        self._courier: Courier | None = None
        self._file: BinaryIO | None = None
        self._numbered = False
        self._space = 0  # in bytes, for the open asset
        self._flushed: dict[str, None] = {}  # since the last sync, so not durable yet

    def __enter__(self) -> Webhook:
        """Start to post what earlier runs have left."""
        self._courier = Courier(
            self.directory.parent,
            Endpoint(*self._receiver),
            self._backoff_s,
            self._max_backoff_s,
        )
        self._courier.add(self._left())
        self._courier.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Wait for the receiver, unless the run was interrupted; keep what is not delivered."""
        courier, self._courier = self._courier, None
        if courier is None:
            return
        kept, refused = courier.close(0 if exc_info[0] is not None else self._drain_s)
        self._remove_empty()
        if kept:
            why = f", of which {refused} were refused" if refused else ""
            _log.warning(
                "webhook: %d inputs are not delivered%s; the next run into this output posts them",
                kept, why,
            )  # fmt: skip

    def begin(self, asset: Asset) -> None:
        """Open the asset's file."""
        self._numbered = not asset.is_still
        self._space = self._max_bytes - (self._courier.kept_bytes if self._courier else 0)
        self._file = self._folder.open(self._name(asset.id))

    def write(self, result: Result) -> None:
        """Write one frame's line.

        Raises:
            SinkError: The files have reached their largest total size.
        """
        line = without_image_id(encode(result, numbered=self._numbered))
        self._space -= len(line)
        asset_id = result.frame.asset_id
        if self._space < 0:
            raise SinkError(
                f"'{asset_id}': the results that wait for the webhook's receiver have reached "
                f"sink.webhook.max_spool_mb={self._max_bytes // 1_000_000}; the next run processes "
                "this input again",
                asset_id=asset_id,
            )
        if self._file is None:
            raise RuntimeError("Webhook: begin the asset first")
        self._file.write(line)

    def flush(self, asset: Asset) -> None:
        """Give the file its name; it is posted after ``sync``."""
        name = self._name(asset.id)
        if self._file is None or not self._file.tell():  # all frames were dropped
            self.discard(asset)
            return
        if self._courier is not None:
            self._courier.withdraw(name)
        self._folder.commit(name)
        self._file = None
        self._flushed[name] = None

    def sync(self) -> None:
        """Make the names of the files durable, then post them.

        Raises:
            OSError: The disk fails.
            OutputError: A file was moved or deleted during the run.
        """
        self._folder.sync()
        if self._courier is not None:
            self._courier.add(self._flushed)
        self._flushed.clear()

    def discard(self, asset: Asset) -> None:
        """Remove the asset's file, unless it was posted already."""
        name = self._name(asset.id)
        if self._courier is not None:
            self._courier.withdraw(name)
        self._folder.remove(name)
        self._file = None
        self._flushed.pop(name, None)

    def _name(self, asset_id: str) -> str:
        return f"{self.directory.name}/{output_name(asset_id, '.jsonl')}"

    def _left(self) -> list[str]:
        """Return the files that earlier runs have left."""
        found = []
        for directory, _, names in os.walk(self.directory):
            inner = Path(directory).relative_to(self.directory.parent)
            found += [str(inner / name) for name in names if name.endswith(".jsonl")]
        return sorted(found)

    def _remove_empty(self) -> None:
        for directory, _, _ in os.walk(self.directory, topdown=False):
            self._folder.remove_empty(str(Path(directory).relative_to(self.directory.parent)))


def _variable(option: str, name: str | None) -> str:
    value = os.environ.get(name or "")
    if not value:  # the name is not shown: it may be the secret itself
        raise ConfigError(f"{option}: no environment variable of this name is set")
    return value
