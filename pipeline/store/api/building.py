"""Builds the module of a stored model and loads it onto a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, UntrustedModelError
from pipeline.models import architectures
from pipeline.models.config_file import ConfigFile, make_cfg, read_plain
from pipeline.models.weights.weights import load_weights, read_weights
from pipeline.store.api.catalog import metadata_of
from pipeline.store.api.custom import import_modules
from pipeline.store.disk.version import CONFIG, WEIGHTS, ModelVersion
from pipeline.system.devices import resolve_device

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.engine import DefaultPredictor
    from torch import nn


def load_version(
    model: ModelVersion, device_id: str, *, trust: bool, verify: bool
) -> DefaultPredictor | nn.Module:
    """Load a stored model onto a device; see ``pipeline.store.load_model``."""
    device = resolve_device(device_id)
    if verify:
        model.verify()
    if trust:
        import_modules(ModelVersion(model.tag, model.path, model.info, trust=True))
    cfg = stored_cfg(model)
    cfg.MODEL.DEVICE = device
    with architectures.quiet():
        module = load_module(model, cfg).eval().to(device)
        return module if model.info["kind"] == "module" else _predictor(model, cfg, module)


def stored_cfg(model: ModelVersion) -> CfgNode:
    """Return the ``CfgNode`` of a stored model, including keys that Detectron2 does not have."""
    config = ConfigFile(CONFIG, read_plain(model.path / CONFIG), in_zoo=False)
    return make_cfg(config, strict=False)


def neutral_cfg(cfg: Any) -> Any:
    """Return a copy of a ``CfgNode`` that names no weights and no device."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def build_module(model: ModelVersion, cfg: CfgNode) -> nn.Module:
    """Build the module of a stored model on the CPU, without its weights.

    Raises:
        ConfigError: Detectron2 cannot build it.
        UntrustedModelError: It requires the Python modules that were saved with it.
    """
    cfg = neutral_cfg(cfg)
    try:
        return architectures.build(cfg, seed=0)
    except ConfigError as exc:
        if model.info.get("external_modules"):
            try:
                import_modules(model)
            except UntrustedModelError as untrusted:
                raise untrusted from exc
        raise


def load_module(model: ModelVersion, cfg: CfgNode) -> nn.Module:
    """Build the module of a stored model on the CPU and load its weights.

    Raises:
        ConfigError: Detectron2 cannot build it.
        ModelCorruptError: The weights do not fit.
        UntrustedModelError: It requires the Python modules that were saved with it.
    """
    module = build_module(model, cfg)
    load_weights(module, read_weights(model.path / WEIGHTS), f"the weights of '{model.tag}'")
    return module


def _predictor(model: ModelVersion, cfg: CfgNode, module: nn.Module) -> DefaultPredictor:
    """Construct a ``DefaultPredictor`` around a loaded module.

    Its own constructor would build a second module and load ``cfg.MODEL.WEIGHTS`` into it.
    """
    from detectron2.data.transforms import ResizeShortestEdge
    from detectron2.engine import DefaultPredictor

    predictor: DefaultPredictor = DefaultPredictor.__new__(DefaultPredictor)
    # DefaultPredictor(predictor.cfg) then loads these weights, or fails if torch cannot read
    # .safetensors, but never silently uses random weights
    cfg.MODEL.WEIGHTS = str(model.path / WEIGHTS)
    predictor.cfg = cfg
    predictor.model = module
    predictor.metadata = metadata_of(model)
    size = cfg.INPUT.MIN_SIZE_TEST
    predictor.aug = ResizeShortestEdge([size, size], cfg.INPUT.MAX_SIZE_TEST)
    predictor.input_format = cfg.INPUT.FORMAT
    return predictor
