"""Builds a job from a composed configuration: checks it, then calls one constructor per option."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.arguments import bad_arguments
from pipeline.config.checks import (
    bad_values,
    check_parts,
    refuse_file,
    with_key,
)
from pipeline.config.explain import explain
from pipeline.config.inputs import build_source, normalize_input
from pipeline.config.keys import unknown_keys
from pipeline.config.outputs import check_uploads, local_directory, place_output
from pipeline.config.targets import SPECIAL, find, is_own, one_line, untrusted
from pipeline.engine.pushdown import leading_limits
from pipeline.errors import ConfigError, PipelineError
from pipeline.job import Job, inputs_of
from pipeline.models.model import Model
from pipeline.protocols import Aggregate, DeclaresPixels, Sink, Stage
from pipeline.recorded.configuration import moved
from pipeline.recorded.model import RecordedModel
from pipeline.recorded.run import is_address
from pipeline.sinks.label_maps import LabelMaps
from pipeline.sources.paths import refuse_input_in
from pipeline.sources.recorded import TARGET as RECORDED
from pipeline.sources.recorded import Recorded
from pipeline.system.files import expanded


def build_job(cfg: DictConfig, started: float | None = None) -> Job:
    """Build and check all parts of a job; loads and opens nothing.

    Args:
        cfg: A configuration composed from ``conf/``.
        started: When the job was started, in seconds since 1970; by default now.

    Raises:
        ConfigError: The configuration is not valid; lists all problems that were found.
        StoreError: The model is not in the store.
    """
    address = place_output(cfg)
    config = _resolved(cfg)
    if problems := [*unknown_keys(config), *untrusted(config)]:
        raise ConfigError(*problems)
    if problems := list(bad_values(config)):
        raise ConfigError(*problems)
    output = expanded(config["output"])
    refuse_file(output)
    refuse_input_in(output, config["input"])

    def build(key: str, **wiring: Any) -> Any:
        group, _, name = key.partition(".")  # a name may hold dots, which select would follow
        return _build(cfg[group][name] if name else cfg[group], key, wiring)

    store = build("store")
    model = _model(config, store)
    model.check()  # first, because the other parts are checked against its classes
    stages = {name: build(f"stage.{name}") for name in config["stage"]}
    pushed = pushdown_arguments(stages.values(), config["runnable"])
    written = {name: build(f"sink.{name}") for name in config["sink"]}
    aggregates = {name: part for name, part in written.items() if isinstance(part, Aggregate)}
    # a part may be both: a file per asset, and one over the whole run
    sinks = {
        n: part for n, part in written.items() if n not in aggregates or isinstance(part, Sink)
    }
    pixels = _pixels(config["source"], [*stages.values(), *sinks.values()])
    job = Job(
        source=build_source(config, partial(build, "source", **pixels)),
        model=model,
        store=store,
        runnable=build("runnable", model=model, device=config["device"], **pushed),
        stages=stages,
        sinks=sinks | {"label_maps": LabelMaps(directory=str(output))},
        aggregates=aggregates,
        runner=build("runner"),
        output=output,
        address=address,
        config=config,
        hydra_files=_hydra_files(cfg),
        started=time.time() if started is None else started,
    )
    check_parts(job)
    check_uploads(job)
    recorded: list[str] = job.source.places() if isinstance(job.source, Recorded) else []
    refuse_input_in(output, [*inputs_of(config["input"]), *recorded], job.outputs())
    return job


def rebuild_job(config: Mapping[str, Any], started: float | None = None) -> Job:
    """Build a job from the resolved configuration of another one, as ``run.json`` has it.

    Args:
        config: Plain containers; ``${`` is text. Checked as any other configuration.
        started: See ``build_job``.

    Raises:
        ConfigError: The configuration is not valid.
        StoreError: The model is not in the store.
    """
    own: dict[str, Any] = _literal(config)
    if is_address(output := str(own["output"])):  # the sinks name it, too
        own["sink"] = moved(own["sink"], output, str(local_directory(output)))
    return replace(build_job(OmegaConf.create(own), started), hydra_files={})


def _literal(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _literal(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_literal(value) for value in node]
    return node.replace("${", "\\${") if isinstance(node, str) else node


def _model(config: Mapping[str, Any], store: Any) -> Model | RecordedModel:
    options = dict(config["model"])
    run = options.pop("run")
    if run is not None:
        return RecordedModel(run, options)
    return Model(**options, store=store, seed=config["seed"])


def _pixels(source: Mapping[str, Any], parts: Iterable[Stage | Sink]) -> dict[str, Any]:
    """Return whether a part reads pixels, if the source has this argument and no value for it."""
    accepted = inspect.signature(find(source["_target_"])).parameters
    if "pixels" not in accepted or source.get("pixels") is not None:
        return {}
    declared = (part.needs_pixels if isinstance(part, DeclaresPixels) else True for part in parts)
    return {"pixels": any(declared)}


def pushdown_arguments(stages: Iterable[Stage], runnable: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the leading stages drop, as arguments of the runnable; see ``leading_limits``.

    Args:
        stages: In order.
        runnable: The configuration of ``runnable``. Values that the user set there stay; what its
            class does not accept is not passed.
    """
    accepted = inspect.signature(find(runnable["_target_"])).parameters
    unset = {key for key in accepted if runnable.get(key) in (None, accepted[key].default)}
    return leading_limits(stages, unset)


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    try:
        config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as exc:
        raise ConfigError(explain(exc)) from exc
    assert isinstance(config, dict)
    normalize_input(config)  # type: ignore[arg-type]
    _normalize_run(config)
    return {str(key): value for key, value in config.items()}


def _normalize_run(config: dict[Any, Any]) -> None:
    """Make the paths of a finished run absolute, because its replay can be replayed elsewhere."""
    for node in (config["source"], config["runnable"], config["model"]):
        if config["source"].get("_target_") == RECORDED:
            for key in ("run", "root"):
                path = node.get(key)
                if isinstance(path, str) and path.strip() and not is_address(path):
                    node[key] = str(expanded(path))


def _build(node: Any, key: str, wiring: dict[str, Any]) -> Any:
    """Build a part whose target ``untrusted`` allows."""
    values: Any = OmegaConf.to_container(node, resolve=True)
    target = find(values["_target_"])
    arguments = {name: value for name, value in values.items() if name not in SPECIAL} | wiring
    if problems := list(bad_arguments(target, arguments, key)):
        raise ConfigError(*problems)
    try:
        if is_own(values["_target_"]):
            return target(**arguments)  # arguments are data: nothing is built for them
        return instantiate(node, _convert_="all", **wiring)
    except InstantiationException as exc:
        cause: BaseException = exc.__cause__ or exc
    except Exception as exc:
        cause = exc
    if type(cause) is ConfigError:
        raise ConfigError(*(with_key(key, problem) for problem in cause.problems)) from cause
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
