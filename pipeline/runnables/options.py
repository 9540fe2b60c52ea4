"""Checks the options of a Detectron2 runnable: valid values and combinations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Protocol

from pipeline.errors import ConfigError, did_you_mean
from pipeline.validation import check, check_choice, check_flag, check_number, is_whole

ENGINES = ("auto", "torch", "openvino", "compile")
PRECISIONS = ("fp32", "bf16", "fp16")
_MAX_FORWARDS = 1024


class Options(Protocol):
    """The options, as ``detectron2.Detectron2`` describes them.

    ``device`` may still be ``auto``. Some checks are possible only once it is known.
    """

    device: str
    exact: bool
    engine: str
    precision: str
    batch_size: int | str
    batch_by_shape: bool
    forwards: int | str
    resize_on_device: bool
    cache: str | None
    min_score: float
    classes: Sequence[str | int] | None
    max_instances: int | None


def engine_of(options: Options) -> str:
    """Return the engine that computes the convolutions."""
    return "torch" if options.exact or options.engine == "auto" else options.engine


def serial_reason(options: Options) -> str:
    """Return why forwards must run one at a time; empty if they may run at the same time."""
    if options.exact:
        return "exact runs one forward at a time"
    if options.engine == "compile":  # torch's caches of compiled code are not thread-safe
        return "engine compile runs one forward at a time"
    return "CUDA runs one forward at a time" if options.device.startswith("cuda") else ""


def class_ids(options: Options, class_names: Sequence[str]) -> list[int] | None:
    """Return the ids of ``options.classes``; ``None`` for all classes.

    Raises:
        ConfigError: The model does not have one of the classes.
    """
    if options.exact or options.classes is None:
        return None
    names = set(map(str, options.classes))  # YAML reads [0, 1], the classes of digits, as numbers
    if unknown := names - set(class_names):
        hints = (f"'{name}'{did_you_mean(name, class_names)}" for name in sorted(unknown))
        raise ConfigError(*(f"runnable.classes: the model has no class {hint}" for hint in hints))
    return [i for i, name in enumerate(class_names) if name in names]


def find_problems(options: Options) -> Iterator[str]:
    """Yield what is wrong with the options; each problem starts with the name of an option."""
    values, combinations = list(_bad_values(options)), list(_bad_combinations(options))
    named = {problem.partition(":")[0] for problem in values}
    yield from values
    yield from (each for each in combinations if each.partition(":")[0] not in named)


def _bad_values(options: Options) -> Iterator[str]:
    size, forwards, limit = options.batch_size, options.forwards, options.max_instances
    classes, cache = options.classes, options.cache
    are_names = classes is None or (isinstance(classes, Sequence) and not isinstance(classes, str))
    checks = [
        partial(check_flag, "exact", options.exact),
        partial(check_choice, "engine", options.engine, ENGINES),
        partial(check_choice, "precision", options.precision, PRECISIONS),
        partial(
            check, "batch_size", size, size == "auto" or is_whole(size, 1),
            "auto or a whole number of at least 1",
        ),
        partial(check_flag, "batch_by_shape", options.batch_by_shape),
        partial(
            check, "forwards", forwards, forwards == "auto" or is_whole(forwards, 1, _MAX_FORWARDS),
            f"auto or a whole number from 1 to {_MAX_FORWARDS}",
        ),
        partial(check_flag, "resize_on_device", options.resize_on_device),
        partial(check, "cache", cache, cache != "", "a directory or null"),
        partial(check_number, "min_score", options.min_score, 0, 1),
        partial(check, "classes", classes, are_names, "a list of class names or null"),
        partial(
            check, "max_instances", limit, limit is None or is_whole(limit, 0),
            "null or a whole number of at least 0",
        ),
    ]  # fmt: skip
    for each in checks:
        try:
            each()
        except ConfigError as exc:
            yield from exc.problems


def _bad_combinations(options: Options) -> Iterator[str]:
    on_cuda, is_openvino = options.device.startswith("cuda"), engine_of(options) == "openvino"
    if options.engine == "openvino" and on_cuda:
        yield f"engine: openvino runs on the CPU only, not on {options.device}"
    elif options.engine == "openvino" and not find_spec("openvino"):
        yield "engine: openvino is not installed. Run: pip install 'd2run[openvino]'"
    if options.cache is not None and options.engine != "openvino":
        yield f"cache: only engine=openvino has a cache, not {options.engine}. Remove cache."
    if options.precision == "fp16" and (options.device == "cpu" or is_openvino):
        yield "precision: fp16 needs a CUDA device. Use bf16, which runs on all devices."
    if options.exact and options.engine not in ("auto", "torch"):
        yield f"engine: {options.engine} is not exact. Remove engine, or set exact=false."
    if options.exact and options.precision != "fp32":
        yield f"precision: {options.precision} is not exact. Remove precision, or set exact=false."
    if options.exact and options.resize_on_device:
        yield "resize_on_device: not exact. Remove resize_on_device, or set exact=false."
    if options.forwards not in ("auto", 1) and (reason := serial_reason(options)):
        yield f"forwards: {reason}, not {options.forwards}. Remove forwards."
