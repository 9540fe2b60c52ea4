"""From YAML to objects: the schema of a job, and ``build_job``.

With ``run.py`` and the runners the only place that knows Hydra and OmegaConf.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.arguments import misfits
from pipeline.config.checks import (
    bad_values,
    check_parts,
    prefixed,
    refuse_file,
    refuse_foreign,
)
from pipeline.config.explain import explain
from pipeline.config.inputs import build_source, inputs_of, normalize_input
from pipeline.config.keys import unknown_keys
from pipeline.config.schema import DecodeConfig, JobConfig, ModelConfig
from pipeline.config.targets import SPECIAL, find, is_own, one_line, untrusted
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
        started: When the job was started, in seconds since 1970.
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
    started: float = field(default_factory=time.time)

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


def build_job(cfg: DictConfig, started: float | None = None) -> Job:
    """Build and check everything that a configuration names; loads and opens nothing.

    Args:
        cfg: A configuration composed from ``conf/``.
        started: When the job was started, in seconds since 1970; by default now.

    Raises:
        ConfigError: Something does not fit; lists all problems that were found.
        StoreError: The model is not in the store.
    """
    config = _resolved(cfg)
    if problems := [*unknown_keys(config), *untrusted(config)]:
        raise ConfigError(*problems)
    if problems := list(bad_values(config)):
        raise ConfigError(*problems)
    output = expanded(config["output"])
    refuse_file(output)
    refuse_foreign(output, config["input"])

    def build(key: str, **wiring: Any) -> Any:
        group, _, name = key.partition(".")  # a name may hold dots, which select would follow
        return _build(cfg[group][name] if name else cfg[group], key, wiring)

    store = build("store")
    model = Model(**config["model"], store=store, seed=config["seed"])
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
        started=time.time() if started is None else started,
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
    taken = inspect.signature(find(runnable["_target_"])).parameters
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
        raise ConfigError(explain(exc)) from exc
    assert isinstance(config, dict)
    normalize_input(config)  # type: ignore[arg-type]
    return {str(key): value for key, value in config.items()}


def _build(node: Any, key: str, wiring: dict[str, Any]) -> Any:
    """Build a part, which ``untrusted`` has found to be allowed."""
    values: Any = OmegaConf.to_container(node, resolve=True)
    target = find(values["_target_"])
    arguments = {name: value for name, value in values.items() if name not in SPECIAL} | wiring
    if problems := list(misfits(target, arguments, key)):
        raise ConfigError(*problems)
    try:
        if is_own(values["_target_"]):
            return target(**arguments)  # which builds nothing for the arguments
        return instantiate(node, _convert_="all", **wiring)
    except InstantiationException as exc:
        cause: BaseException = exc.__cause__ or exc
    except Exception as exc:
        cause = exc
    if type(cause) is ConfigError:
        raise ConfigError(
            *(prefixed(key, problem, arguments) for problem in cause.problems)
        ) from cause
    if isinstance(cause, PipelineError):
        raise cause
    raise ConfigError(f"{key}: {one_line(cause)}") from cause


def _hydra_files(cfg: DictConfig) -> dict[str, Any]:
    if not HydraConfig.initialized():
        return {}
    hydra: Any = HydraConfig.instance().cfg
    overrides = OmegaConf.select(hydra, "hydra.overrides.task")
    nodes = {"config.yaml": cfg, "hydra.yaml": hydra, "overrides.yaml": overrides}
    return {name: OmegaConf.to_container(node, enum_to_str=True) for name, node in nodes.items()}
