"""From YAML to objects: the schema of a job, and ``build_job``.

With ``run.py`` and the runners the only place that knows Hydra and OmegaConf.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.arguments import misfits
from pipeline.config.checks import bad_values, check_parts, refuse_foreign, untrusted
from pipeline.config.inputs import build_source, inputs_of, normalize_input
from pipeline.config.schema import DecodeConfig, JobConfig, ModelConfig
from pipeline.errors import ConfigError, PipelineError
from pipeline.files import expanded
from pipeline.protocols import Aggregate, Runnable, Runner, Sink, Source, Stage
from pipeline.sinks.predictions import PredictionsJsonl
from pipeline.store.local import ModelStore
from pipeline.store.model import Model

__all__ = [
    "DecodeConfig",
    "Job",
    "JobConfig",
    "ModelConfig",
    "asked_less",
    "build_job",
    "inputs_of",
    "library_versions",
]

_LIBRARIES = ("torch", "torchvision", "detectron2", "numpy", "opencv-python", "pillow")
_DECIDED_WHEN_LOADED = ("device", "threads", "batch_size", "numerics")


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

    def parts(self) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
        """Yield the key of each part that may have a ``check``, the part, and the arguments."""
        if self.source is not None:
            yield "source", self.source, ()
        for name, stage in self.stages.items():
            yield f"stage.{name}", stage, (self.model.categories,)
        written: dict[str, Any] = {**self.sinks, **self.aggregates}
        for name, sink in written.items():
            yield f"sink.{name}", sink, (self.model.categories,)

    def settings(self) -> dict[str, Any]:
        """Return all that decides what the results are; the fingerprint is its digest.

        ``device`` is complete only once the runnable has been entered.
        """
        config = self.config
        settings = {
            "model": self.model.identity(),
            "jpeg": config["decode"]["jpeg"],
            "source": {k: v for k, v in config["source"].items() if k != "input"},
            "runnable": {k: v for k, v in config["runnable"].items() if k != "cache"},
            "batch_size": config["batch_size"],
            "seed": config["seed"],
            "device": {key: getattr(self.runnable, key, None) for key in _DECIDED_WHEN_LOADED},
            "stage": config["stage"],
            "stages": list(config["stage"]),  # their order counts
            "sinks": sorted(config["sink"]),
            "versions": library_versions(),
        }
        plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
        return plain

    def fingerprint(self) -> str:
        """Return the SHA-256, in hexadecimal, of the settings."""
        text = json.dumps(self.settings(), sort_keys=True)
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
    problems = [*untrusted(config), *bad_values(config)]
    if problems:
        raise ConfigError(*problems)
    output = expanded(config["output"])
    refuse_foreign(output, config["input"])

    def build(key: str, **wiring: Any) -> Any:
        return _instantiate(OmegaConf.select(cfg, key), key, wiring)

    store = build("store")
    wanted = {key: value for key, value in config["model"].items() if key != "variant"}
    if unknown := wanted.keys() - inspect.signature(Model).parameters.keys():
        raise ConfigError(*(f"model has no option '{key}'" for key in sorted(unknown)))
    model = Model(**wanted, store=store, seed=config["seed"])
    model.check()  # first, for the other parts are checked against its classes
    stages = {name: build(f"stage.{name}") for name in config["stage"]}
    least = asked_less(stages.values(), config["runnable"])
    written = {name: build(f"sink.{name}") for name in config["sink"]}
    aggregates = {name: sink for name, sink in written.items() if isinstance(sink, Aggregate)}
    sinks = {name: sink for name, sink in written.items() if name not in aggregates}
    job = Job(
        source=build_source(config, partial(build, "source")),
        model=model,
        store=store,
        runnable=build("runnable", model=model, device=config["device"], **least),
        stages=stages,
        sinks=sinks | {"predictions": PredictionsJsonl(directory=str(output))},
        aggregates=aggregates,
        runner=build("runner"),
        output=output,
        config=config,
        hydra_files=_hydra_files(cfg),
    )
    check_parts(job.parts())
    return job


def asked_less(stages: Iterable[Stage], runnable: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the leading stages let the model leave out, as arguments of the runnable.

    Only what leads is said: thresholds and classes, and the first limit after them. A limit that
    comes after any other stage is not the model's, since of what that stage takes away others take
    the place; nor is one after classes that cannot be asked for.

    Args:
        stages: In order.
        runnable: The configuration of ``runnable``. What the user set there stays; what its
            class does not take is not given.
    """
    taken = inspect.signature(get_object(runnable["_target_"])).parameters
    unset = {key for key in taken if runnable.get(key) in (None, taken[key].default)}
    asked: dict[str, Any] = {}
    for stage in stages:
        said: dict[str, Any] = getattr(stage, "pushdown", dict)()
        if "least_score" in said:
            asked["least_score"] = max(said["least_score"], asked.get("least_score", 0.0))
        if "classes" in said:
            before = asked.get("classes", said["classes"])
            asked["classes"] = [name for name in said["classes"] if name in before]
        if "most" in said and ("classes" not in asked or "classes" in unset):
            asked["most"] = said["most"]
        if not said or "most" in said:
            break
    return {key: value for key, value in asked.items() if key in unset}


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    try:
        config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as exc:
        raise ConfigError(str(exc).splitlines()[0]) from exc
    assert isinstance(config, dict)
    normalize_input(config)  # type: ignore[arg-type]
    return {str(key): value for key, value in config.items()}


def _instantiate(node: Any, key: str, wiring: Mapping[str, Any]) -> Any:
    values: Any = OmegaConf.to_container(node, resolve=True)
    if found := list(misfits(get_object(values["_target_"]), values | wiring)):
        raise ConfigError(*(f"{key}: {problem}" for problem in found))
    try:
        return instantiate(node, _convert_="all", **wiring)
    except InstantiationException as exc:
        cause = exc.__cause__
        if type(cause) is ConfigError:
            raise ConfigError(*(f"{key}: {problem}" for problem in cause.problems)) from exc
        if isinstance(cause, PipelineError):
            raise cause from exc
        text = str(cause) if cause is not None else str(exc).splitlines()[0]
        raise ConfigError(f"{key}: {text}") from exc


def _hydra_files(cfg: DictConfig) -> dict[str, Any]:
    if not HydraConfig.initialized():
        return {}
    hydra: Any = HydraConfig.instance().cfg
    overrides = OmegaConf.select(hydra, "hydra.overrides.task")
    nodes = {"config.yaml": cfg, "hydra.yaml": hydra, "overrides.yaml": overrides}
    return {name: OmegaConf.to_container(node, enum_to_str=True) for name, node in nodes.items()}
