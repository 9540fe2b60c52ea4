"""Every key that a configuration may hold, for OmegaConf to check."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

GROUPS = ("model", "store", "runnable", "source", "stage", "sink", "runner")


@dataclass
class ModelConfig:
    """Keys of ``model``; see docs/models.md.

    Attributes:
        name: Name of the model; runner=save stores it under this name.
        config: Config of the model: a name of the model zoo, or a YAML file.
        weights: Weights: zoo, a file, an http(s) address, or random.
        variant: Backbone and training schedule, part of the config's name.
        categories: Set of class names that comes with d2run; model.class_names replaces it.
        class_names: Class names by id: a list, {id: name}, a .txt or a COCO .json file.
        score_threshold: The model drops instances with a lower score; null: use its config.
        nms_threshold: The model suppresses boxes that overlap a better one by more than this IoU;
            null: use its config.
        opts: Further Detectron2 settings: [KEY,VALUE,...].
        tag: A model of the store: name, name:latest, name:version or a unique prefix of a version.
        trust: Whether to import the Python modules that a stored model brings.
        verify: Whether to compare a stored model's files with their digests before loading.
        ema: Whether to load the averaged weights (ema_state) of a training checkpoint.
        run: Directory of a finished run whose classes to use; set by runnable=replay.
        labels: Labels that runner=save stores with the model, for searching.
        metadata: Any further data that runner=save stores with the model.
    """

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
    run: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class DecodeConfig:
    """Keys of ``decode``: the decoder, the process it runs in, and its limits."""

    jpeg: str = "pillow"
    isolation: str = "auto"
    timeout_s: float = 60.0
    memory_mb: int = 2048


@dataclass
class JobConfig:
    """Every key that ``conf/config.yaml`` may hold; any other key is an error when composing."""

    input: Any = None  # a string or a list of strings
    output: str = MISSING
    device: str = "auto"
    batch_size: Any = 1
    decode_threads: int | None = None
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    queue_mb: int = 256
    seed: int = 0
    exif: bool = True
    quiet: bool = False
    verbose: bool = False
    trusted_packages: list[str] = field(default_factory=lambda: ["pipeline", "runners"])
    model: ModelConfig = field(default_factory=ModelConfig)
    store: dict[str, Any] = field(default_factory=dict)
    runnable: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    stage: dict[str, Any] = field(default_factory=dict)
    sink: dict[str, Any] = field(default_factory=dict)
    runner: dict[str, Any] = field(default_factory=dict)


ConfigStore.instance().store(name="job_schema", node=JobConfig)

SCHEMAS = {"": JobConfig, "decode": DecodeConfig, "model": ModelConfig}
OPEN = ("model.labels", "model.metadata")  # mappings with keys of the user's choice


@cache
def types() -> dict[str, Any]:
    """Return the type of each key by its full path; arguments of parts are not included."""
    return {
        f"{prefix}.{name}" if prefix else name: hint
        for prefix, schema in SCHEMAS.items()
        for name, hint in get_type_hints(schema).items()
    }


@cache
def text_keys() -> frozenset[str]:
    """Return the keys whose values are strings or null."""
    return frozenset(key for key, hint in types().items() if hint in (str, str | None))
