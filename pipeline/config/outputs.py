"""The key ``output``: a directory, or an address in an object store, with a local copy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.config.checks import with_key
from pipeline.errors import ConfigError
from pipeline.job import Job, UploadingRunner, inputs_of
from pipeline.recorded.run import is_address
from pipeline.redaction import redacted_text
from pipeline.sharding import parse_shard
from pipeline.system.files import expanded

_DEFAULT_OUTPUT = "${hydra:runtime.output_dir}"
_NO_STORES = ("data", "dir", "file", "generic", "http", "https", "local", "reference")
_MAX_NAME = 60
_ONE_SLASH = re.compile(r"(s3|gs|gcs|az|abfs|memory):/(?!/)(.*)")


def local_directory(address: str) -> Path:
    """Return the directory of the local copy of an output in an object store.

    It depends on the address alone, without the password that the address may contain.
    """
    shown = redacted_text(address).rstrip("/")
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", shown.partition("://")[2])[-_MAX_NAME:].strip("-.")
    digest = sha256(shown.encode(errors="surrogateescape")).hexdigest()[:12]
    return local_directories() / f"{readable}-{digest}"


def local_directories() -> Path:
    """Return the directory of all local copies."""
    return expanded(os.environ.get("D2RUN_HOME") or "~/.d2run") / "outputs"


def place_output(cfg: DictConfig) -> str | None:
    """Set ``output`` to the run directory that the options choose: sinks write there.

    Returns:
        The address of the output if it is in an object store.

    Raises:
        ConfigError: ``runner.shard`` is not valid, ``output`` is not named, or its address is that
            of no object store.
    """
    record, shard = (OmegaConf.select(cfg, f"runner.{key}") for key in ("record", "shard"))
    if record and isinstance(record, str):
        cfg.output = record
    own = None
    if shard is not None:
        try:
            own = parse_shard(shard)
        except ConfigError as exc:
            raise ConfigError(with_key("runner", str(exc))) from exc
        unresolved: Any = OmegaConf.to_container(cfg)
        if unresolved["output"] == _DEFAULT_OUTPUT:
            raise ConfigError(
                "runner.shard: the shards share an output directory; add output=DIR (and remove -m)"
            )
    output = OmegaConf.select(cfg, "output", throw_on_resolution_failure=False)
    if not (isinstance(output, str) and is_address(output)):
        refuse_one_slash(output)
        if own is not None:
            cfg.output = str(own.directory(Path(cfg.output)))
        return None
    _check_address(output)
    address = output.rstrip("/")
    if own is not None:
        address = f"{address}/{own.directory(Path())}"
    cfg.output = str(local_directory(address))
    return address


def refuse_one_slash(output: object) -> None:
    """Refuse an address with a slash too few, which would be a directory.

    Raises:
        ConfigError: It is one.
    """
    if isinstance(output, str) and (match := _ONE_SLASH.match(output)):
        raise ConfigError(f"output: '{output}': did you mean {match[1]}://{match[2]}?")


def _check_address(address: str) -> None:
    scheme, _, path = address.partition("://")
    shown = redacted_text(address)
    if "::" in address or scheme.lower() in _NO_STORES or not path.strip("/"):
        raise ConfigError(
            f"output: '{shown}' is not an address in an object store, such as s3://bucket/night; "
            "for a directory of this machine, set output to its path"
        )
    from fsspec import available_protocols

    if scheme.lower() not in available_protocols():
        raise ConfigError(f"output: {scheme}:// is not supported")


def check_uploads(job: Job) -> None:
    """Refuse what cannot be in an object store, if the output is in one.

    Raises:
        ConfigError: The runner needs a directory, or a sink writes what a store cannot hold.
    """
    if job.address is None:
        return
    from pipeline.sinks.annotations.files import AnnotationFiles  # only such jobs need them
    from pipeline.sinks.fiftyone import Fiftyone
    from pipeline.sinks.webhook import Webhook

    shown = redacted_text(job.address)
    if not isinstance(job.runner, UploadingRunner):
        raise ConfigError(
            f"output: '{shown}': only runner=batch and runner=ray write to an object store; set "
            "output to a directory"
        )
    problems = list(_inputs_in(job, job.address))
    for name, sink in {**job.sinks, **job.aggregates}.items():
        if isinstance(sink, Webhook):
            problems.append(
                f"sink.{name}: results that wait for the receiver are kept on this machine, which "
                f"'{shown}' is not; remove the sink, or set output to a directory"
            )
        if isinstance(sink, AnnotationFiles) and sink.images == "link":
            problems.append(
                f"sink.{name}.images=link: an object store has no links; set it to copy or none"
            )
        if isinstance(sink, Fiftyone) and sink.images is not None:
            problems.append(f"sink.{name}.images: an object store has no links; set it to null")
    if problems:
        raise ConfigError(*problems)


def _inputs_in(job: Job, address: str) -> Iterator[str]:
    """Yield what is wrong with inputs that would list results."""
    own = {name.partition("/")[0] for name in job.outputs()}
    for each in inputs_of(job.config["input"]):
        place = each.rstrip("/")
        inner = place.removeprefix(f"{address}/").partition("/")[0]
        if f"{address}/".startswith(f"{place}/") or (inner != place and inner in own):
            yield (
                f"output is in the input '{redacted_text(each)}', so results would become inputs; "
                "choose another output"
            )
