"""The functions of ``pipeline.store``, with the interface of ``bentoml.detectron``."""

from __future__ import annotations

import builtins
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError
from pipeline.models import architectures
from pipeline.store.api.building import load_version, neutral_cfg
from pipeline.store.api.catalog import categories_of
from pipeline.store.api.store import ModelStore
from pipeline.store.api.stored_model import StoredModel
from pipeline.store.disk.plain import expect_mapping
from pipeline.store.disk.signatures import plain_signatures
from pipeline.store.disk.tags import Tag, TagLike

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.engine import DefaultPredictor
    from torch import nn


def save_model(
    name: TagLike,
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
        name: ``name``, which gets a new version, or ``name:version``; a text, or a tag of d2run or
            BentoML.
        checkpointables: A ``DefaultPredictor``, or a module that Detectron2 builds from a config.
        config: The module's ``CfgNode``. For a predictor, which has a config, ignored with a
            warning.
        signatures: Options of the methods of ``get_runnable``, by name, as mappings or BentoML's
            ``ModelSignature``; by default ``{"__call__": {"batchable": False}}``.
        labels: Labels to find the model by.
        custom_objects: Python objects to save with the model, pickled with cloudpickle.
        external_modules: Modules whose source is saved with the model; for a package, all its
            modules.
        metadata: Text, numbers, booleans, ``None``, bytes, dates, times, lists and mappings of them
            by text or number, and NumPy values.
        class_names: Names by class id, ids and names, or a file
            (``categories.parse_class_names``). By default, the names in Detectron2's
            ``MetadataCatalog`` for the config's datasets.
        store: The store; by default the one in ``$D2RUN_HOME``.

    Returns:
        The stored model, whose custom objects and modules are trusted in this process.

    Raises:
        ConfigError: A value is missing or cannot be saved.
        ModelExistsError: The name has this version.
        ModelCorruptError: The weights do not fit the config.
        StoreError: The store cannot be written.
    """
    store = store or ModelStore()
    tag = Tag.from_taglike(name)
    store.refuse_existing(tag)
    if external_modules is not None and not isinstance(external_modules, Iterable):
        raise ConfigError(
            f"external_modules: expected a list of modules, got {external_modules!r:.80}"
        )
    objects = expect_mapping(custom_objects, "custom_objects", "objects, as in {'scale': 0.5}")
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
            warnings.warn(f"'{tag}' is saved {warning}", stacklevel=2)
    saved = store.save_tested(
        tag,
        cfg,
        module.state_dict(),
        categories,
        labels=labels,
        metadata=metadata,
        signatures=methods,
        kind=kind,
        custom_objects=objects,
        external_modules=external_modules,
    )
    return replace(saved, trust=True)


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
    bento_model: TagLike,
    device_id: str = "cpu",
    *,
    trust: bool = False,
    verify: bool = True,
    store: ModelStore | None = None,
) -> DefaultPredictor | nn.Module:
    """Load a stored model onto a device, with the weights that were saved.

    Torch's random state, default device and default tensor type do not change.

    Args:
        bento_model: A tag or the result of ``get``, of d2run or BentoML.
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
    model = _stored(bento_model, store)
    return load_version(model, str(device_id), trust=trust or model.trust, verify=verify)


def get_runnable(bento_model: TagLike, *, store: ModelStore | None = None) -> type:
    """Return a class with one method per signature of a stored model.

    Its instances load the model; see ``StoredRunnable`` for the arguments of the methods. As in
    BentoML, a predictor returns one result, a module a list with one result per image. Methods
    whose signature is ``batchable`` accept a list of images, or an array or tensor of four
    dimensions whose ``batch_dim`` counts the images, and return a list.

    Args:
        bento_model: A tag or the result of ``get``, of d2run or BentoML.
        store: The store; by default the one in ``$D2RUN_HOME``.
    """
    runnable: type = _stored(bento_model, store).to_runnable()
    return runnable


def get(tag_like: TagLike, *, trust: bool = False, store: ModelStore | None = None) -> StoredModel:
    """Find a stored model; see ``ModelStore.get``."""
    return (store or ModelStore()).get(tag_like, trust=trust)


def list(
    tag: TagLike | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    store: ModelStore | None = None,
) -> builtins.list[StoredModel]:
    """Return the stored models; see ``ModelStore.list``."""
    return (store or ModelStore()).list(tag, labels=labels)


def delete(tag: TagLike, *, store: ModelStore | None = None) -> builtins.list[str]:
    """Delete one version, or all versions for a bare name; see ``ModelStore.delete``."""
    return (store or ModelStore()).delete(tag)


def _stored(bento_model: TagLike, store: ModelStore | None) -> StoredModel:
    return bento_model if isinstance(bento_model, StoredModel) else get(bento_model, store=store)
