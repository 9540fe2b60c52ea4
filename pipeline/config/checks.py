"""What can be told of a configuration before any work."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from pipeline.config.inputs import inputs_of
from pipeline.errors import ConfigError, PipelineError
from pipeline.files import RESULT_FOLDERS, RESULTS, expanded
from pipeline.sources.paths import real_path

_ISOLATION = ("auto", "process", "none")
_JPEG = ("pillow", "nvjpeg")
_DAY_S = 86400
_MOST_THREADS = 1024
_LEAST_MB, _MOST_MB = 64, 1 << 30
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


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
    if not _DEVICE.fullmatch(config["device"]):
        yield f"device '{config['device']}' is none of auto, cpu, cuda, cuda:N"
    if not config["output"].strip():
        yield "output is empty; leave it out for a new directory under outputs/"
    size = config["batch_size"]
    if size != "auto" and not (type(size) is int and size >= 1):  # bool is an int, too
        yield f"batch_size is {size!r}; it must be auto, or a whole number of at least 1"
    for key in ("decode_threads", "queue_mb"):
        if config[key] is not None and config[key] < 1:
            yield f"{key} is {config[key]}; it must be at least 1"
    if (config["decode_threads"] or 1) > _MOST_THREADS:
        yield f"decode_threads is {config['decode_threads']}; it must be at most {_MOST_THREADS}"
    decode = config["decode"]
    if decode["isolation"] not in _ISOLATION:
        yield f"decode.isolation '{decode['isolation']}' is none of {', '.join(_ISOLATION)}"
    if decode["jpeg"] not in _JPEG:
        yield f"decode.jpeg '{decode['jpeg']}' is none of {', '.join(_JPEG)}"
    if decode["jpeg"] == "nvjpeg" and config["device"] == "cpu":
        yield "decode.jpeg=nvjpeg needs a CUDA device; this job's is cpu"
    if decode["jpeg"] == "nvjpeg" and decode["isolation"] == "process":
        yield "decode.jpeg=nvjpeg decodes in the job's own process; leave out decode.isolation"
    if decode["jpeg"] == "nvjpeg" and config["runnable"].get("exact"):
        yield "runnable.exact takes Pillow's pixels; leave out decode.jpeg=nvjpeg, or exact"
    if not 0 < decode["timeout_s"] <= _DAY_S:
        yield f"decode.timeout_s is {decode['timeout_s']}; it must be more than 0, at most a day"
    if not _LEAST_MB <= decode["memory_mb"] <= _MOST_MB:
        yield f"decode.memory_mb is {decode['memory_mb']}; it must be at least {_LEAST_MB}"
    for group in ("stage", "sink"):
        for name, node in config[group].items():
            if not isinstance(node, dict) or "_target_" not in node:
                yield f"{group}.{name} has no _target_: it names no class to build"
    if "predictions" in config["sink"]:
        yield "sink.predictions: predictions.jsonl is always written; choose another name"


def untrusted(config: Mapping[str, Any]) -> Iterator[str]:
    """Name each ``_target_`` whose code does not come from a trusted package.

    The object's own module counts too: ``pipeline.x.os.system`` is not the package's code.
    """
    trusted = tuple(config["trusted_packages"])
    for key, target in _targets(config, ""):
        package = str(target).split(".")[0]
        if package in trusted:
            try:
                found = get_object(str(target))
            except Exception as exc:
                yield f"{key}: cannot import '{target}': {exc}"
                continue
            package = str(getattr(found, "__module__", None) or "?").split(".")[0]
        if package not in trusted:
            allowed = ",".join([*trusted, package])
            yield (
                f"{key} would run code of the package '{package}' ({target}), which is not "
                f"trusted; to trust it add 'trusted_packages=[{allowed}]'"
            )


def _targets(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    items: Iterable[tuple[Any, Any]] = node.items() if isinstance(node, Mapping) else ()
    items = enumerate(node) if isinstance(node, list) else items
    for name, value in items:
        if name == "_target_":
            yield key, value
        yield from _targets(value, f"{key}.{name}" if key else str(name))


def check_parts(parts: Iterable[tuple[str, Any, tuple[Any, ...]]]) -> None:
    """Ask every part that can tell whether it fits, and raise all problems together.

    Args:
        parts: Their keys, the parts, and what to give to their ``check``.

    Raises:
        ConfigError: Some do not fit.
    """
    problems: list[str] = []
    for key, part, arguments in parts:
        try:
            getattr(part, "check", lambda *_: None)(*arguments)
        except ConfigError as exc:
            prefix = f"{key}: " if "." in key else ""  # the source names its keys
            problems += [prefix + problem for problem in exc.problems]
        except PipelineError:
            raise
        except Exception as exc:
            problems.append(f"{key}: its check failed with {type(exc).__name__}: {exc}")
    if problems:
        raise ConfigError(*problems)
