"""Checks a configuration before anything is built."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config.arguments import given, near
from pipeline.config.schema import text_keys, types
from pipeline.errors import ConfigError, PipelineError
from pipeline.job import Job
from pipeline.protocols import (
    Aggregate,
    CategorizedSource,
    Checkable,
    CheckableSource,
    LimitedRunnable,
    Pushdown,
    PushesDown,
    Sink,
)
from pipeline.system.files import is_output_name
from pipeline.validation import check_choice, check_whole

_SINK_MEMBERS = {"outputs", "begin", "write", "flush", "discard", "__enter__", "__exit__"}
_ISOLATION = ("auto", "process", "none")
_JPEG = ("pillow", "nvjpeg")
_DAY_S = 86400
_MAX_THREADS = 1024
_MIN_MB, _MAX_MB = 64, 1 << 30
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_GPU = re.compile(r"(?:gpu|cuda|nvidia|cu)[^a-z0-9]*(\d*)", re.IGNORECASE)  # typed for cuda:N


def refuse_file(output: Path) -> None:
    """Raise ConfigError if the output is a file or would be below one."""
    for path in (output, *output.parents):
        if os.path.lexists(path):
            if not path.is_dir():
                raise ConfigError(f"output {output}: {path} is a file; choose another output")
            return


def bad_values(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each value that is valid in no job."""
    for key in sorted(text_keys() - {"input"}):  # the source checks the input
        parent, _, name = key.rpartition(".")
        value = (config[parent] if parent else config)[name]
        if isinstance(value, str) and not value.strip():
            yield f"{key}: expected a value, got {value!r}; remove it to use the default"
    device, size, threads = config["device"], config["batch_size"], config["decode_threads"]
    if device.strip() and not _DEVICE.fullmatch(device):
        gpu = _GPU.fullmatch(device)
        hint = f"; did you mean '{':'.join(filter(None, ('cuda', gpu[1])))}'?" if gpu else ""
        yield f"device: expected auto, cpu, cuda or cuda:N, got {device!r}{hint}"
    if size != "auto" and not (type(size) is int and size >= 1):  # a bool is an int, too
        yield f"batch_size: expected auto or a whole number of at least 1, got {given(size)}"
    decode = config["decode"]
    if threads is not None:
        yield from _problem(check_whole, "decode_threads", threads, 1, _MAX_THREADS)
    yield from _problem(check_whole, "queue_mb", config["queue_mb"], 1)
    for name, choices in (("isolation", _ISOLATION), ("jpeg", _JPEG)):
        for problem in _problem(check_choice, f"decode.{name}", decode[name], choices):
            yield problem + near(decode[name], choices)
    if decode["jpeg"] == "nvjpeg" and device == "cpu":
        yield "decode.jpeg=nvjpeg needs a CUDA device; this job runs on cpu"
    if decode["jpeg"] == "nvjpeg" and decode["isolation"] == "process":
        yield "decode.jpeg=nvjpeg decodes in the job's own process; remove decode.isolation=process"
    if decode["jpeg"] == "nvjpeg" and config["runnable"].get("exact"):
        yield "runnable.exact needs Pillow's pixels; remove decode.jpeg=nvjpeg or runnable.exact"
    timeout_s = decode["timeout_s"]
    if not 0 < timeout_s <= _DAY_S:
        expected = f"a number of seconds above 0, at most {_DAY_S}"
        yield f"decode.timeout_s: expected {expected}, got {timeout_s}"
    yield from _problem(check_whole, "decode.memory_mb", decode["memory_mb"], _MIN_MB, _MAX_MB)
    if "predictions" in config["sink"]:
        yield "sink.predictions: predictions.jsonl is always written; choose another name"


def _problem(check: Callable[..., None], *arguments: Any) -> Iterator[str]:
    """Yield the message of a check that fails."""
    try:
        check(*arguments)
    except ConfigError as exc:
        yield str(exc)


def check_parts(job: Job) -> None:
    """Check every part against the model, and raise all problems together.

    Raises:
        ConfigError: Some parts do not fit.
    """
    problems = [*_misfits(job), *_not_kept(job)]
    for key, part in job.parts():
        try:
            if part is job.source:
                if isinstance(part, CheckableSource):
                    part.check()
                if isinstance(part, CategorizedSource):
                    part.compare_categories(job.model.categories)
            elif isinstance(part, Checkable):
                part.check(job.model.categories)
        except ConfigError as exc:
            problems += [with_key(key, problem) for problem in exc.problems]
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


def _not_kept(job: Job) -> Iterator[str]:
    """Name each stage that would keep instances that a finished run dropped."""
    if not isinstance(job.runnable, LimitedRunnable):
        return
    kept = job.runnable.limits
    remedy = "Change the stage, or run the model again"
    for name, stage in job.stages.items():
        wanted = stage.pushdown() if isinstance(stage, PushesDown) else Pushdown()
        lowest = kept.min_score or 0.0
        if wanted.min_score is not None and wanted.min_score < lowest:
            yield (
                f"stage.{name}: keeps scores of at least {wanted.min_score}, but the recorded run "
                f"dropped scores below {lowest}. {remedy}"
            )
        elif wanted.min_score is not None and wanted.complete and not kept.complete:
            yield (
                f"stage.{name}: keeps scores of at least {wanted.min_score}, but the recorded run "
                f"had a threshold per class. {remedy}"
            )
        if missing := [c for c in wanted.classes or () if c not in (kept.classes or (c,))]:
            yield (
                f"stage.{name}: keeps {', '.join(missing)}, but the recorded run kept only "
                f"{', '.join(kept.classes or ())}. {remedy}"
            )
        if kept.max_instances is not None and (wanted.max_instances or 0) > kept.max_instances:
            yield (
                f"stage.{name}: keeps {wanted.max_instances} instances, but the recorded run kept "
                f"at most {kept.max_instances}. {remedy}"
            )


def with_key(key: str, problem: str) -> str:
    """Return a part's message with the part's key in front.

    Args:
        key: The key of the part in the configuration.
        problem: ``option: expected ...`` becomes ``key.option: expected ...``, unless the option
            is written with its full key; any other sentence becomes ``key: ...``.
    """
    option = re.match(r"([a-z][\w.]*)(:?)", problem)
    name = option[1] if option else ""
    if name in types() or name.startswith(f"{key.partition('.')[0]}."):
        return problem
    return f"{key}.{problem}" if option and option[2] else f"{key}: {problem}"
