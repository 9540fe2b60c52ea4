"""``save_model`` and ``load_model``: Detectron2's own objects into the store, and out of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, UntrustedModelError
from pipeline.models import architectures
from pipeline.models.config_file import ConfigFile, make_cfg, read_plain
from pipeline.models.weights.weights import load_weights, read_weights
from pipeline.store.api.catalog import categories_of, metadata_of
from pipeline.store.api.custom import import_modules
from pipeline.store.api.saving import neutral, put
from pipeline.store.disk.entry import CONFIG, WEIGHTS, StoredModel
from pipeline.store.disk.local import ModelStore
from pipeline.store.disk.plain import plain_signatures
from pipeline.system.devices import resolve_device

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.engine import DefaultPredictor
    from torch import nn


def save_model(
    name: str,
    checkpointables: DefaultPredictor | nn.Module,
    config: CfgNode | None = None,
    *,
    signatures: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    external_modules: Iterable[ModuleType] | None = None,
    metadata: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | Mapping[int, str] | str | None = None,
    store: ModelStore | None = None,
) -> StoredModel:
    """Save a Detectron2 model with the weights it has now.

    The model is built anew from its config and tried before it is stored; what the caller gives is
    not changed.

    Args:
        name: ``name``, which gets a new version, or ``name:version``.
        checkpointables: A ``DefaultPredictor``, or a module that Detectron2 builds from a config.
        config: The module's ``CfgNode``; ignored, with a warning, for a predictor, which has one.
        signatures: Methods that ``get_runnable`` gives, by name; by default
            ``{"__call__": {"batchable": False}}``.
        labels: Words to find it by.
        custom_objects: Python objects to keep with it, pickled by cloudpickle.
        external_modules: Modules whose source is to travel with it; packages whole.
        metadata: Values that JSON has, and NumPy's.
        class_names: Names by class id, ids and names, or a file (``categories.named``). By default
            those of the config's data sets in Detectron2's ``MetadataCatalog``.
        store: By default the one in ``$D2RUN_HOME``.

    Returns:
        The stored model, whose weights were read back from what was given.

    Raises:
        ConfigError: Something is missing or cannot be stored.
        ModelExistsError: The name has this version.
        ModelCorruptError: The weights do not fit the config.
        StoreError: The disk refuses.
    """
    store = store or ModelStore()
    store.refuse_existing(name)
    cfg, module, kind = _parts(checkpointables, config)
    named_methods = plain_signatures(signatures)
    for method in named_methods:
        if not any(callable(getattr(owner, method, None)) for owner in (checkpointables, module)):
            raise ConfigError(
                f"signature '{method}': {type(checkpointables).__name__} has no method of that name"
            )
    cfg = neutral(cfg)
    if class_names is not None:
        categories = architectures.names_for(cfg, class_names)
    else:
        categories, warning = categories_of(cfg, checkpointables)
        if warning:
            warnings.warn(f"'{name}' is saved {warning}", stacklevel=2)
    return put(
        store,
        name,
        cfg,
        module.state_dict(),
        categories,
        labels=labels,
        metadata=metadata,
        signatures=named_methods,
        kind=kind,
        custom_objects=custom_objects,
        external_modules=external_modules,
    )


def _parts(checkpointables: Any, config: Any) -> tuple[Any, nn.Module, str]:
    from detectron2.config import CfgNode
    from detectron2.engine import DefaultPredictor
    from torch import nn

    if isinstance(checkpointables, DefaultPredictor):
        if config is not None:
            warnings.warn(
                "config is ignored: a DefaultPredictor has its own (predictor.cfg)", stacklevel=3
            )
        return checkpointables.cfg, checkpointables.model, "predictor"
    if not isinstance(checkpointables, nn.Module):
        raise ConfigError(
            "checkpointables must be a DefaultPredictor or a torch.nn.Module, not a "
            f"{type(checkpointables).__name__}"
        )
    if not isinstance(config, CfgNode):
        given = "is required" if config is None else f"is a {type(config).__name__}"
        raise ConfigError(
            f"config {given}: a module is saved with the detectron2.config.CfgNode that "
            "build_model made it from"
        )
    return config, checkpointables, "module"


def load_model(
    tag: str | StoredModel,
    device_id: str = "cpu",
    *,
    trust: bool = False,
    verify: bool = True,
    store: ModelStore | None = None,
) -> DefaultPredictor | nn.Module:
    """Load a stored model onto a device, with the weights that were stored.

    Torch's random state, default device and default tensor type stay as they are.

    Args:
        tag: A tag, or what ``get`` returned.
        device_id: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``.
        trust: Import the Python modules that were saved with it; they may run any code.
        verify: Compare every file with its SHA-256 first.
        store: By default the one in ``$D2RUN_HOME``.

    Returns:
        A ``DefaultPredictor`` if one was saved, else the module in eval mode.

    Raises:
        DeviceError: The device does not exist; names those that do.
        ModelNotFoundError: There is no such model.
        ModelCorruptError: A file is not what was saved, or the weights do not fit.
        UntrustedModelError: It cannot be built without the modules that it brings.
    """
    device = resolve_device(str(device_id))
    entry = tag if isinstance(tag, StoredModel) else (store or ModelStore()).get(tag)
    if verify:
        entry.verify()
    if trust:
        import_modules(StoredModel(entry.tag, entry.path, entry.info, trust=True))
    cfg = stored_cfg(entry)
    cfg.MODEL.DEVICE = device
    with architectures.quiet():
        module = build_stored(entry, cfg)
        load_weights(module, read_weights(entry.path / WEIGHTS), f"the weights of '{entry.tag}'")
        module = module.eval().to(device)
        return module if entry.info["kind"] == "module" else _predictor(entry, cfg, module)


def stored_cfg(entry: StoredModel) -> CfgNode:
    """Return the ``CfgNode`` of a stored model, with the keys that are not Detectron2's own."""
    config = ConfigFile(CONFIG, read_plain(entry.path / CONFIG), in_zoo=False)
    return make_cfg(config, strict=False)


def build_stored(entry: StoredModel, cfg: CfgNode) -> nn.Module:
    """Build the module of a stored model on the CPU.

    Raises:
        ConfigError: Detectron2 cannot build it.
        UntrustedModelError: It cannot be built without the modules that it brings.
    """
    cfg = neutral(cfg)
    try:
        return architectures.build(cfg, seed=0)
    except ConfigError as exc:
        if entry.info.get("external_modules"):
            try:
                import_modules(entry)
            except UntrustedModelError as untrusted:
                raise untrusted from exc
        raise


def _predictor(entry: StoredModel, cfg: CfgNode, module: nn.Module) -> DefaultPredictor:
    """Make a ``DefaultPredictor`` around a module that is loaded already.

    Its constructor would build a second module, and load ``cfg.MODEL.WEIGHTS`` into it.
    """
    from detectron2.data.transforms import ResizeShortestEdge
    from detectron2.engine import DefaultPredictor

    predictor: DefaultPredictor = DefaultPredictor.__new__(DefaultPredictor)
    # so that DefaultPredictor(predictor.cfg) has these weights too, or fails where torch cannot
    # read a .safetensors, but is never one with random weights
    cfg.MODEL.WEIGHTS = str(entry.path / WEIGHTS)
    predictor.cfg = cfg
    predictor.model = module
    predictor.metadata = metadata_of(entry)
    size = cfg.INPUT.MIN_SIZE_TEST
    predictor.aug = ResizeShortestEdge([size, size], cfg.INPUT.MAX_SIZE_TEST)
    predictor.input_format = cfg.INPUT.FORMAT
    return predictor
