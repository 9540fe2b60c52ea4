"""What can be told of a configuration before any work."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config.arguments import given, near
from pipeline.config.inputs import inputs_of
from pipeline.config.schema import text_keys, types
from pipeline.errors import ConfigError, PipelineError
from pipeline.job import Job
from pipeline.protocols import Aggregate, Checkable, CheckableSource, Sink
from pipeline.sources.paths import real_path
from pipeline.system.files import expanded, is_output_name

_SINK_MEMBERS = {"outputs", "begin", "write", "flush", "discard", "__enter__", "__exit__"}
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


def refuse_input_in(
    output: Path, given: str | list[str] | None, outputs: Iterable[str] = ()
) -> None:
    """Refuse an input that is the output, or in a directory where results are written and removed.

    Args:
        output: The output directory.
        given: The inputs.
        outputs: Names in the output that sinks own, directories with a trailing ``/``.

    Raises:
        ConfigError: The input is there.
    """
    directories = [name for name in outputs if name.endswith("/")]
    for source in inputs_of(given):
        if source == "-":
            continue
        real, place = (Path(real_path(p)) for p in (expanded(source), output))
        if real == place:
            raise ConfigError(
                f"output is the input {output}, so results would become inputs; choose another "
                "output"
            )
        for name in directories:
            if real.is_relative_to(place / name):
                raise ConfigError(
                    f"the input {source} is in {name} of the output {output}, where results are "
                    "written and removed; choose another output"
                )


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
    problems = list(_misfits(job))
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


def _misfits(job: Job) -> Iterator[str]:
    """Name each sink that lacks a member of the protocol, or owns a name outside the output."""
    for name, part in {**job.sinks, **job.aggregates}.items():
        if not isinstance(part, (Sink, Aggregate)):
            missing = ", ".join(sorted(_SINK_MEMBERS - set(dir(part))))
            yield f"sink.{name}: {type(part).__name__} is not a sink: it has no {missing}"
        elif not all(map(is_output_name, part.outputs)) or isinstance(part.outputs, str):
            yield (
                f"sink.{name}: expected outputs to be a tuple of names in the run directory, got "
                f"{part.outputs!r}"
            )


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
