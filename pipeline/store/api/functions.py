"""The functions of ``pipeline.store``, with the interface of ``bentoml.detectron``."""

from __future__ import annotations

import builtins
import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError
from pipeline.models import architectures
from pipeline.store.api.building import load_version, neutral_cfg
from pipeline.store.api.catalog import categories_of
from pipeline.store.api.store import ModelStore
from pipeline.store.api.stored_model import StoredModel
from pipeline.store.disk.plain import plain_signatures

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
    """Save a Detectron2 model with its current weights.

    The model is rebuilt from its config and tested before it is saved; the arguments are not
    changed.

    Args:
        name: ``name``, which gets a new version, or ``name:version``.
        checkpointables: A ``DefaultPredictor``, or a module that Detectron2 builds from a config.
        config: The module's ``CfgNode``. For a predictor, which has a config, ignored with a
            warning.
        signatures: Methods of ``get_runnable``, by name; by default
            ``{"__call__": {"batchable": False}}``.
        labels: Labels to find the model by.
        custom_objects: Python objects to save with the model, pickled with cloudpickle.
        external_modules: Modules whose source is saved with the model; for a package, all its
            modules.
        metadata: Values of JSON's types, and NumPy values.
        class_names: Names by class id, ids and names, or a file
            (``categories.parse_class_names``). By default, the names in Detectron2's
            ``MetadataCatalog`` for the config's datasets.
        store: The store; by default the one in ``$D2RUN_HOME``.

    Returns:
        The stored model.

    Raises:
        ConfigError: A value is missing or cannot be saved.
        ModelExistsError: The name has this version.
        ModelCorruptError: The weights do not fit the config.
        StoreError: The store cannot be written.
    """
    store = store or ModelStore()
    store.refuse_existing(name)
    cfg, module, kind = _parts(checkpointables, config)
    methods = plain_signatures(signatures)
    for method in methods:
        if not any(callable(getattr(owner, method, None)) for owner in (checkpointables, module)):
            raise ConfigError(
                f"signatures: {type(checkpointables).__name__} has no method '{method}'"
            )
    cfg = neutral_cfg(cfg)
    if class_names is not None:
        categories = architectures.cfg_categories(cfg, class_names)
    else:
        categories, warning = categories_of(cfg, checkpointables)
        if warning:
            warnings.warn(f"'{name}' is saved {warning}", stacklevel=2)
    return store.save_tested(
        name,
        cfg,
        module.state_dict(),
        categories,
        labels=labels,
        metadata=metadata,
        signatures=methods,
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
            "checkpointables: expected a DefaultPredictor or a torch.nn.Module, got a "
            f"{type(checkpointables).__name__}"
        )
    if not isinstance(config, CfgNode):
        raise ConfigError(
            "config: expected the detectron2.config.CfgNode that the module was built from, got "
            f"{'None' if config is None else f'a {type(config).__name__}'}"
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
    """Load a stored model onto a device, with the weights that were saved.

    Torch's random state, default device and default tensor type do not change.

    Args:
        tag: A tag, or the result of ``get``.
        device_id: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``.
        trust: Import the Python modules saved with the model, which can run any code.
        verify: First compare every file with its SHA-256.
        store: The store; by default the one in ``$D2RUN_HOME``.

    Returns:
        A ``DefaultPredictor`` if one was saved, otherwise the module in eval mode.

    Raises:
        DeviceError: The device does not exist; lists the existing ones.
        ModelNotFoundError: There is no such model.
        ModelCorruptError: A file differs from what was saved, or the weights do not fit.
        UntrustedModelError: It requires the Python modules that were saved with it.
    """
    model = tag if isinstance(tag, StoredModel) else get(tag, store=store)
    return load_version(model, str(device_id), trust=trust, verify=verify)


def get_runnable(model: StoredModel | str, *, store: ModelStore | None = None) -> type:
    """Return a class with one method per signature of a stored model.

    Its instances load the model; see ``StoredRunnable`` for the arguments of the methods. As in
    BentoML, a predictor returns one result, a module a list with one result per image. Methods
    whose signature is ``batchable`` accept a list of images, or an array or tensor of four
    dimensions whose ``batch_dim`` counts the images, and return a list.

    Args:
        model: A tag, or the result of ``get``.
        store: The store; by default the one in ``$D2RUN_HOME``.
    """
    stored = model if isinstance(model, StoredModel) else get(model, store=store)
    runnable: type = stored.to_runnable()
    return runnable


def get(tag: str, *, trust: bool = False, store: ModelStore | None = None) -> StoredModel:
    """Find a stored model; see ``ModelStore.get``."""
    return (store or ModelStore()).get(tag, trust=trust)


def list(
    name: str | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    store: ModelStore | None = None,
) -> builtins.list[StoredModel]:
    """Return the stored models; see ``ModelStore.list``."""
    return (store or ModelStore()).list(name, labels=labels)


def delete(tag: str, *, store: ModelStore | None = None) -> builtins.list[str]:
    """Delete one version, or all versions for a bare name; see ``ModelStore.delete``."""
    return (store or ModelStore()).delete(tag)
