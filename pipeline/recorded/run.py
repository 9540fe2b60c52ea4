"""The directory of a finished run: what ran, its inputs, and their results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.encoding import asset_prefix, columns_of, read_records
from pipeline.errors import ConfigError, OutputError
from pipeline.protocols import Pushdown
from pipeline.recorded.decoding import RecordedResult, decode
from pipeline.records import Categories
from pipeline.redaction import redacted_text
from pipeline.system.descriptors import open_to_read
from pipeline.system.files import asset_id_of, expanded
from pipeline.system.os_errors import describe_os_error

RECORD, INPUTS, FAILURES, SKIPPED = (
    "run.json", "inputs.jsonl", "failures.jsonl", "skipped.jsonl",
)  # fmt: skip
EVALUATION = "evaluation.json"  # of runner=evaluate
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
COMPLETE = (0, 3, 4)  # exit statuses of runs that put their files in input order


@dataclass(frozen=True, slots=True)
class RecordedInput:
    """One input of a finished run.

    Attributes:
        id: Id of the asset.
        size_bytes: Size of the file that was decoded; ``None`` if it was never read.
        sha256: SHA-256 of its content, in hexadecimal digits; ``None`` if it was never read.
        failure: Its line of ``failures.jsonl``; ``None`` if it is done.
        partial: That line, if it is done but could not be decoded in full.
        start: Offset of its lines in ``predictions.jsonl``, in bytes.
        n_lines: Number of its lines: frames that no stage dropped.
        is_still: Whether it has exactly one frame, without a timestamp.
        image_id: Id of its first frame, if the source assigned it.
        columns: Values of its own; see ``AnnotatedAsset``.
    """

    id: str
    size_bytes: int | None
    sha256: str | None
    failure: Mapping[str, Any] | None = None
    partial: Mapping[str, Any] | None = None
    start: int = 0
    n_lines: int = 0
    is_still: bool = True
    image_id: int | None = None
    columns: Mapping[str, Any] | None = None


class RecordedRun:
    """The directory of a run. Iterating over it yields the result of each frame, in its order.

    Args:
        path: The run directory.

    Raises:
        ConfigError: There is no run, or its record cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = run_directory(str(path))
        self._record = _record(self.path)

    def __repr__(self) -> str:
        """Return the directory."""
        return f"RecordedRun({str(self.path)!r})"

    def __iter__(self) -> Iterator[RecordedResult]:
        """Yield the result of each frame, one at a time.

        Raises:
            OutputError: A line is incomplete or damaged, or a label map cannot be read.
        """
        for record in read_records(self.path / PREDICTIONS):
            yield decode(record, self.categories, self.path)

    def __len__(self) -> int:
        """Return the number of frames with a result."""
        with self._open(PREDICTIONS) as lines:
            return sum(1 for _ in lines)

    @property
    def record(self) -> Mapping[str, Any]:
        """The content of ``run.json``."""
        return self._record

    @cached_property
    def categories(self) -> Categories:
        """The classes of the run's model.

        Raises:
            ConfigError: An earlier version of d2run recorded the run.
        """
        kept = self._fact("model").get("categories")
        if not isinstance(kept, Mapping):
            raise ConfigError(
                f"'{self.path}' was recorded by an earlier version of d2run; run the same command "
                "again to complete its record, which does not run the model"
            )
        values = {name: tuple(values) for name, values in kept.items()}
        values["skeleton"] = tuple(map(tuple, values["skeleton"]))
        return Categories(**values)

    @cached_property
    def limits(self) -> Pushdown:
        """The instances that the run dropped: by their scores, classes and number."""
        return Pushdown(**self._fact("limits"))

    @property
    def model(self) -> dict[str, Any]:
        """What distinguishes the run's model from any other."""
        derived = ("class_names", "stuff_names", "categories")
        identity = {k: v for k, v in self._fact("model").items() if k not in derived}
        return identity | {"fingerprint": self._record["fingerprint"]}

    @property
    def source(self) -> dict[str, Any]:
        """The configuration of the run's source."""
        return dict(self._fact("config").get("source", {}))

    @property
    def origins(self) -> list[list[dict[str, Any]]]:
        """The inputs of the run; one that is a list has several origins."""
        return list(self._record.get("inputs") or [])

    def check_finished(self) -> None:
        """Check that the run has ended, so that its files are complete and in input order.

        Raises:
            ConfigError: It is running or was interrupted.
        """
        state, status = self._record.get("state"), self._record.get("exit_status")
        if state != "ended" or status not in COMPLETE:
            how = f"ended with exit status {status}" if state == "ended" else "has not ended"
            raise ConfigError(
                f"the run in '{self.path}' {how}; let it finish, or resume it with its own command"
            )

    def inputs(self) -> Iterator[RecordedInput]:
        """Yield the inputs in order, each with the place of its lines.

        Raises:
            OutputError: The files of the run do not fit together.
        """
        failures = {asset_id_of(line): line for line in self.lines(FAILURES)}
        with self._open(PREDICTIONS) as predictions:
            for line in self.lines(INPUTS):
                asset_id = asset_id_of(line)
                common = asset_id, line["size"], line["sha256"]
                failure, image_id = failures.get(asset_id), line.get("image_id")
                if line["outcome"] != "done":
                    yield RecordedInput(*common, failure or {}, image_id=image_id)
                    continue
                start, n_lines = predictions.tell(), line["frames"] - line["dropped"]
                is_still, columns = line["frames"] == 1, None
                prefix = asset_prefix(asset_id)
                for i, text in enumerate(islice(predictions, n_lines)):
                    if not text.startswith(prefix):
                        raise self._damaged(f"the result of '{asset_id}' is missing")
                    is_still = is_still and b', "pts": ' not in text[: len(prefix) + 200]
                    columns = columns if i else columns_of(text)
                yield RecordedInput(
                    *common, None, failure, start, n_lines, is_still, image_id, columns
                )
            if predictions.read(1):
                raise self._damaged(f"{PREDICTIONS} has results of inputs that are not listed")

    def results(self, recorded: RecordedInput) -> Iterator[RecordedResult]:
        """Yield the results of one input, frame by frame.

        Raises:
            OutputError: A line is damaged, or a label map cannot be read.
        """
        for line in self.raw_lines(recorded):
            try:
                record = json.loads(line)
            except ValueError as exc:
                raise self._damaged(f"the result of '{recorded.id}' is incomplete") from exc
            yield decode(record, self.categories, self.path)

    def raw_lines(self, recorded: RecordedInput) -> Iterator[bytes]:
        """Yield the lines of one input in ``predictions.jsonl``."""
        with self._open(PREDICTIONS) as predictions:
            predictions.seek(recorded.start)
            yield from islice(predictions, recorded.n_lines)

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the objects of one of the lists beside the results.

        Raises:
            OutputError: The list is missing or damaged.
        """
        with self._open(name) as file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError as exc:
                    raise self._damaged(f"{name} has an incomplete line") from exc

    def has(self, name: str) -> bool:
        """Return whether the run has one of the lists."""
        return (self.path / name).is_file()

    def _open(self, name: str) -> Any:
        try:
            return open_to_read(self.path / name)
        except OSError as exc:
            raise self._damaged(f"{name}: {describe_os_error(exc)}") from exc

    def _damaged(self, what: str) -> OutputError:
        return OutputError(
            f"the run in '{self.path}' is damaged: {what}. Resume it with its own command, or add "
            "runner=repair to that"
        )

    def _fact(self, name: str) -> dict[str, Any]:
        fact = self._record.get(name)
        return dict(fact) if isinstance(fact, Mapping) else {}


def read_run(path: str | Path) -> RecordedRun:
    """Read the results of a run.

    Args:
        path: The run directory.

    Returns:
        An iterable of results, one per frame; ``len`` is their number. Nothing but ``run.json`` is
        read before.

    Raises:
        ConfigError: There is no run, or its record cannot be read.
    """
    return RecordedRun(path)


def is_address(path: str) -> bool:
    """Return whether a path is an address, such as ``s3://bucket/night``."""
    return bool(_ADDRESS.match(path))


def run_directory(path: str) -> Path:
    """Return the directory of a finished run as an absolute path.

    Raises:
        ConfigError: It is an address.
    """
    if is_address(path):
        raise ConfigError(
            f"'{redacted_text(path)}': a finished run is read from a directory of this machine; "
            "copy it here first, for example with 'aws s3 sync'"
        )
    return expanded(path)


def _record(path: Path) -> dict[str, Any]:
    try:
        with open_to_read(path / RECORD) as file:
            record = json.load(file)
    except (OSError, ValueError) as exc:
        why = describe_os_error(exc) if isinstance(exc, OSError) else "it is not JSON"
        raise ConfigError(f"no run in '{path}': cannot read {RECORD}: {why}") from exc
    if not isinstance(record, dict) or "fingerprint" not in record:
        raise ConfigError(f"no run in '{path}': {RECORD} was not written by a run")
    return record
