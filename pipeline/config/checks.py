"""What can be told of a configuration before any work."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.config.arguments import given, near
from pipeline.config.inputs import inputs_of
from pipeline.config.schema import text_keys, types
from pipeline.errors import ConfigError, PipelineError
from pipeline.job import Job
from pipeline.protocols import Checkable, CheckableSource
from pipeline.sources.paths import real_path
from pipeline.system.files import RESULT_FOLDERS, RESULTS, expanded

_ISOLATION = ("auto", "process", "none")
_JPEG = ("pillow", "nvjpeg")
_DAY_S = 86400
_MOST_THREADS = 1024
_LEAST_MB, _MOST_MB = 64, 1 << 30
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_GPU = re.compile(r"(?:gpu|cuda|nvidia|cu)[^a-z0-9]*(\d*)", re.IGNORECASE)  # what is meant by it


def refuse_file(output: Path) -> None:
    """Refuse an output that is a file, or would be below one.

    Raises:
        ConfigError: It is.
    """
    for path in (output, *output.parents):
        if os.path.lexists(path):
            if not path.is_dir():
                raise ConfigError(f"output {output}: {path} is a file; choose another output")
            return


def refuse_foreign(output: Path, given: str | list[str] | None) -> None:
    """Refuse an output where a run would overwrite a user's files or read its own results.

    Raises:
        ConfigError: It would.
    """
    for source in inputs_of(given):
        if source == "-":
            continue
        real, place = (Path(real_path(p)) for p in (expanded(source), output))
        if real == place:
            raise ConfigError(f"output is the input {output}; its results would be the next inputs")
        for name in RESULT_FOLDERS:
            if real.is_relative_to(place / name):
                raise ConfigError(
                    f"the input {source} lies where results go, and are removed, in the output "
                    f"{output}; choose another output"
                )
    if not any((output / name).exists() for name in ("run.json", "ledger.sqlite")):
        for name in (*RESULTS, *RESULT_FOLDERS):
            if _holds_something(output / name):
                raise ConfigError(
                    f"{output} holds a {'' if '.' in name else 'folder '}{name} that no run of "
                    "d2run wrote; choose another output"
                )


def _holds_something(path: Path) -> bool:
    with suppress(OSError):  # said when it is written to
        return any(path.iterdir()) if path.is_dir() else path.exists()
    return False


def bad_values(config: Mapping[str, Any]) -> Iterator[str]:
    """Name each value that no job can have."""
    for key in sorted(text_keys() - {"input"}):  # the source speaks of the input
        parent, _, name = key.rpartition(".")
        value = (config[parent] if parent else config)[name]
        if isinstance(value, str) and not value.strip():
            yield f"{key} is empty; leave it out, or give it a value"
    if config["device"].strip() and not _DEVICE.fullmatch(config["device"]):
        meant = _GPU.fullmatch(config["device"])
        hint = f"; did you mean '{':'.join(filter(None, ('cuda', meant[1])))}'?" if meant else ""
        yield f"device '{config['device']}' is none of auto, cpu, cuda, cuda:N{hint}"
    size = config["batch_size"]
    if size != "auto" and not (type(size) is int and size >= 1):  # bool is an int, too
        yield f"batch_size must be auto or a whole number of at least 1; it is {given(size)}"
    for key in ("decode_threads", "queue_mb"):
        if config[key] is not None and config[key] < 1:
            yield f"{key} is {config[key]}; it must be at least 1"
    if (config["decode_threads"] or 1) > _MOST_THREADS:
        yield f"decode_threads is {config['decode_threads']}; it must be at most {_MOST_THREADS}"
    decode = config["decode"]
    for name, choices in (("isolation", _ISOLATION), ("jpeg", _JPEG)):
        if decode[name] not in choices:
            hint = near(decode[name], choices)
            yield f"decode.{name} '{decode[name]}' is none of {', '.join(choices)}{hint}"
    if decode["jpeg"] == "nvjpeg" and config["device"] == "cpu":
        yield "decode.jpeg=nvjpeg needs a CUDA device; this job runs on cpu"
    if decode["jpeg"] == "nvjpeg" and decode["isolation"] == "process":
        yield "decode.jpeg=nvjpeg decodes in the job's own process; leave out decode.isolation"
    if decode["jpeg"] == "nvjpeg" and config["runnable"].get("exact"):
        yield "runnable.exact takes Pillow's pixels; leave out decode.jpeg=nvjpeg, or exact"
    if not 0 < decode["timeout_s"] <= _DAY_S:
        yield f"decode.timeout_s is {decode['timeout_s']}; it must be more than 0, at most a day"
    if not _LEAST_MB <= decode["memory_mb"] <= _MOST_MB:
        yield f"decode.memory_mb is {decode['memory_mb']}; it must be at least {_LEAST_MB}"
    if "predictions" in config["sink"]:
        yield "sink.predictions: predictions.jsonl is always written; choose another name"


def check_parts(job: Job) -> None:
    """Check every part against the model, and raise all problems together.

    Raises:
        ConfigError: Some parts do not fit.
    """
    problems: list[str] = []
    for key, part in job.parts():
        try:
            if part is job.source:
                if isinstance(part, CheckableSource):
                    part.check()
            elif isinstance(part, Checkable):
                part.check(job.model.categories)
        except ConfigError as exc:
            problems += [prefixed(key, problem) for problem in exc.problems]
        except PipelineError:
            raise
        except Exception as exc:
            problems.append(f"{key}: its check failed with {type(exc).__name__}: {exc}")
    if problems:
        raise ConfigError(*problems)


def prefixed(key: str, problem: str, names: Container[str] = ()) -> str:
    """Put the key of a part before what it says.

    Args:
        key: Where in the configuration the part is.
        problem: A sentence; it may begin with an option of the part, or with the full key of one.
        names: The options of the part.
    """
    said = re.match(r"([a-z][\w.]*)(:?)", problem)
    name = said[1] if said else ""
    if name in types() or name.startswith(f"{key.partition('.')[0]}."):
        return problem
    is_option = name in names or (said is not None and said[2])
    return f"{key}.{problem}" if is_option else f"{key}: {problem}"
