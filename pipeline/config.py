"""From YAML to objects: the schema of a job, and ``build_job``.

With ``run.py`` and the runners the only place that knows Hydra and OmegaConf.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.errors import ConfigError, PipelineError
from pipeline.protocols import Aggregate, Runnable, Runner, Sink, Source, Stage
from pipeline.sinks.predictions import PredictionsJsonl
from pipeline.store.local import ModelStore
from pipeline.store.model import Model

_LIBRARIES = ("torch", "torchvision", "detectron2", "numpy", "opencv-python", "pillow")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass
class ModelConfig:
    """Keys of ``model=``; see docs/models.md."""

    name: str = MISSING
    config: str | None = None
    weights: str | None = None
    variant: str | None = None
    categories: str | None = None
    class_names: Any = None
    score_threshold: float | None = None
    nms_threshold: float | None = None
    opts: list[Any] = field(default_factory=list)
    tag: str | None = None
    trust: bool = False
    verify: bool = True
    ema: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class JobConfig:
    """Every key that ``conf/config.yaml`` may hold; anything else is refused when composing."""

    input: str | None = None
    output: str = MISSING
    device: str = "auto"
    batch_size: int = 1
    seed: int = 0
    exif: bool = True
    quiet: bool = False
    trusted_packages: list[str] = field(default_factory=lambda: ["pipeline", "runners"])
    model: ModelConfig = field(default_factory=ModelConfig)
    store: dict[str, Any] = field(default_factory=dict)
    runnable: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    stage: dict[str, Any] = field(default_factory=dict)
    sink: dict[str, Any] = field(default_factory=dict)
    runner: dict[str, Any] = field(default_factory=dict)


ConfigStore.instance().store(name="job_schema", node=JobConfig)


@dataclass(frozen=True, slots=True)
class Job:
    """Everything a runner needs, built and checked; nothing is opened or loaded yet.

    Attributes:
        source: ``None`` when no input is given, which only some runners accept.
        sinks: By name; ``predictions`` last, for its flush is the commit point.
        aggregates: By name.
        output: The run directory, absolute.
        config: The resolved configuration, plain containers.
        hydra_files: Content of the files of ``.hydra/`` by name; empty outside ``run.py``.
    """

    source: Source | None
    model: Model
    store: ModelStore
    runnable: Runnable
    stages: dict[str, Stage]
    sinks: dict[str, Sink]
    aggregates: dict[str, Aggregate]
    runner: Runner
    output: Path
    config: dict[str, Any]
    hydra_files: dict[str, Any] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Return the SHA-256, in hexadecimal, of all that decides what the results are."""
        config = self.config
        parts = {
            "model": self.model.identity(),
            "source": {k: v for k, v in config["source"].items() if k != "input"},
            "runnable": config["runnable"],
            "numerics": [config["batch_size"], config["seed"]],
            "device": [getattr(self.runnable, key, None) for key in ("device", "threads")],
            "stages": list(config["stage"].items()),  # a list, for their order counts
            "sinks": sorted(config["sink"]),
            "versions": library_versions(),
        }
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def library_versions() -> dict[str, str | None]:
    """Return the versions of d2run and of the libraries that results depend on."""
    from importlib import metadata

    from pipeline import __version__

    versions: dict[str, str | None] = {"d2run": __version__}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def build_job(cfg: DictConfig) -> Job:
    """Build and check everything that a configuration names; loads and opens nothing.

    Args:
        cfg: A configuration composed from ``conf/``.

    Raises:
        ConfigError: Something does not fit; lists all problems that were found.
        StoreError: The model is not in the store.
    """
    config = _resolved(cfg)
    problems = [*_untrusted(config), *_bad_values(config)]
    if problems:
        raise ConfigError(*problems)
    output = Path(config["output"]).expanduser().absolute()
    _refuse_foreign(output, config["input"])

    def build(key: str, **wiring: Any) -> Any:
        return _instantiate(OmegaConf.select(cfg, key), key, wiring)

    store = build("store")
    wanted = {key: value for key, value in config["model"].items() if key != "variant"}
    model = Model(**wanted, store=store, seed=config["seed"])
    model.check()  # first, for the other parts are checked against its classes
    stages = {name: build(f"stage.{name}") for name in config["stage"]}
    written = {name: build(f"sink.{name}") for name in config["sink"]}
    aggregates = {name: sink for name, sink in written.items() if isinstance(sink, Aggregate)}
    sinks = {name: sink for name, sink in written.items() if name not in aggregates}
    job = Job(
        source=build("source") if config["input"] is not None else None,
        model=model,
        store=store,
        runnable=build("runnable", model=model, device=config["device"]),
        stages=stages,
        sinks=sinks | {"predictions": PredictionsJsonl(directory=str(output))},
        aggregates=aggregates,
        runner=build("runner"),
        output=output,
        config=config,
        hydra_files=_hydra_files(cfg),
    )
    _check(job)
    return job


def _refuse_foreign(output: Path, source: str | None) -> None:
    """Refuse an output where a run would overwrite a user's files or read its own results."""
    if source not in (None, "-") and Path(str(source)).expanduser().absolute() == output:
        raise ConfigError(f"output is the input {output}; its results would be the next inputs")
    if not (output / "run.json").exists():
        for name in ("predictions.jsonl", "coco.json", "coco_results.json"):
            if (output / name).exists():
                raise ConfigError(
                    f"{output} holds a {name} that no run of d2run wrote; choose another output"
                )


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    try:
        config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as exc:
        raise ConfigError(str(exc).splitlines()[0]) from exc
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def _bad_values(config: Mapping[str, Any]) -> Iterator[str]:
    if not _DEVICE.fullmatch(config["device"]):
        yield f"device '{config['device']}' is none of auto, cpu, cuda, cuda:N"
    if not config["output"].strip():
        yield "output is empty; leave it out for a new directory under outputs/"
    if config["batch_size"] < 1:
        yield f"batch_size is {config['batch_size']}; it must be at least 1"
    for group in ("stage", "sink"):
        for name, node in config[group].items():
            if not isinstance(node, dict) or "_target_" not in node:
                yield f"{group}.{name} has no _target_: it names no class to build"
    if "predictions" in config["sink"]:
        yield "sink.predictions: predictions.jsonl is always written; choose another name"


def _untrusted(config: Mapping[str, Any]) -> Iterator[str]:
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


def _instantiate(node: Any, key: str, wiring: Mapping[str, Any]) -> Any:
    try:
        return instantiate(node, _convert_="all", **wiring)
    except InstantiationException as exc:
        cause = exc.__cause__
        if type(cause) is ConfigError:
            raise ConfigError(*(f"{key}: {problem}" for problem in cause.problems)) from exc
        if isinstance(cause, PipelineError):
            raise cause from exc
        text = str(cause) if cause is not None else str(exc).splitlines()[0]
        if isinstance(cause, TypeError):  # a comparison of a text with a number, mostly
            text = f"a value is of the wrong type ({text})"
        raise ConfigError(f"{key}: {text}") from exc


def _check(job: Job) -> None:
    """Ask every part that can tell whether it fits, and raise all problems together."""
    problems: list[str] = []
    parts: list[tuple[str, Any, tuple[Any, ...]]] = []
    if job.source is not None:
        parts.append(("source", job.source, ()))
    parts += [(f"stage.{name}", part, (job.model.categories,)) for name, part in job.stages.items()]
    written: dict[str, Any] = {**job.sinks, **job.aggregates}
    parts += [(f"sink.{name}", part, (job.model.categories,)) for name, part in written.items()]
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


def _hydra_files(cfg: DictConfig) -> dict[str, Any]:
    if not HydraConfig.initialized():
        return {}
    hydra: Any = HydraConfig.instance().cfg
    overrides = OmegaConf.select(hydra, "hydra.overrides.task")
    nodes = {"config.yaml": cfg, "hydra.yaml": hydra, "overrides.yaml": overrides}
    return {name: OmegaConf.to_container(node, enum_to_str=True) for name, node in nodes.items()}
