"""Every key that a configuration may hold, for OmegaConf to check."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


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
class DecodeConfig:
    """Keys of ``decode``: where files are decoded, by what, and what one may take there."""

    jpeg: str = "pillow"
    isolation: str = "auto"
    timeout_s: float = 60.0
    memory_mb: int = 2048


@dataclass
class JobConfig:
    """Every key that ``conf/config.yaml`` may hold; anything else is refused when composing."""

    input: Any = None  # a text, or a list of texts
    output: str = MISSING
    device: str = "auto"
    batch_size: Any = 1
    decode_threads: int | None = None
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    queue_mb: int = 256
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
