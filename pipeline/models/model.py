"""The model that ``model=`` describes: checked without torch, loaded on request."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError
from pipeline.models import architectures
from pipeline.models.categories import dataset_categories, table
from pipeline.models.config_file import ConfigFile, make_cfg, read_config, set_keys
from pipeline.models.options import option_problems
from pipeline.models.origin import Origin, parse_origin
from pipeline.models.storage import Store, StoredModel
from pipeline.models.weights.weights import load_weights, read_weights
from pipeline.models.zoo import zoo_names
from pipeline.records import Categories

if TYPE_CHECKING:
    from torch import nn


class Model:
    """A Detectron2 model: a config, weights and classes, or the tag of a stored model.

    Args:
        name: The display name, and the name in the store when the model is saved.
        store: Finds stored models and keeps downloads.
        config: Name of a model zoo config, or path of a YAML file.
        weights: ``zoo``, a path, an http(s) address, or ``random``.
        variant: Used by the YAML of ``model=`` to compose ``config``; not used here.
        categories: A built-in table for configs outside the zoo: ``coco``, ``coco_person``,
            ``coco_panoptic`` or ``coco_stuff``.
        class_names: Names by class id, ids and names, or a file (see
            ``categories.parse_class_names``). They set the number of classes where the config
            leaves it open. By default, a zoo config has the names of its dataset.
        score_threshold: Minimum score of an instance; by default the config's.
        nms_threshold: Maximum overlap (IoU) of two instances of a class; by default the config's.
        opts: Detectron2's ``[KEY, VALUE, ...]`` list; overrides every other setting.
        tag: A stored model, which has its own config, weights and classes.
        trust: Import the Python modules saved with a stored model; they can run any code.
        verify: Compare the files of a stored model with their SHA-256 before loading it.
        ema: Use the averaged weights (``ema_state``) of a training checkpoint.
        labels: Labels to save with the model.
        metadata: Plain values to save with the model.
        seed: Seed of random weights.

    Attributes:
        warnings: Warnings to show to the user.
    """

    def __init__(
        self,
        name: str,
        *,
        store: Store,
        config: str | None = None,
        weights: str | None = None,
        variant: str | None = None,
        categories: str | None = None,
        class_names: Sequence[str] | Mapping[int, str] | str | None = None,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
        opts: Sequence[Any] = (),
        tag: str | None = None,
        trust: bool = False,
        verify: bool = True,
        ema: bool = False,
        labels: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.config = config
        self.weights = weights
        self.variant = variant
        self.table = categories
        self.class_names = class_names
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.opts = list(opts)
        self.tag = tag
        self.trust = trust
        self.verify = verify
        self.ema = ema
        self.labels = labels
        self.metadata = metadata
        self.store = store
        self.seed = seed
        self.warnings: list[str] = []
        if weights == "random":
            self.warnings.append(
                f"model '{name}' has random weights (seed {seed}): its results are meaningless"
            )

    @cached_property
    def categories(self) -> Categories:
        """The classes that it distinguishes.

        Raises:
            ConfigError: An option is missing, or the names cannot be read.
        """
        if problems := list(self._missing()):
            raise ConfigError(*problems)
        if self._stored:
            return self._stored.categories
        if self.class_names is not None:
            return architectures.parse_classes(
                self.class_names, self._architecture, self._configured
            )
        return self._zoo_categories or table(self.table or "")

    def check(self) -> None:
        """Check the description without torch and without the network.

        Raises:
            ConfigError: Lists every problem.
            ModelNotFoundError: The store has no such tag.
            UntrustedModelError: The config has a tag that would run code.
        """
        problems = list(self._missing())
        if not problems:
            for check in (lambda: self._config, lambda: self._origin.check(), self._check_classes):
                try:
                    check()
                except ConfigError as exc:
                    problems += [text for text in exc.problems if text not in problems]
        thresholds = {"score": self.score_threshold, "nms": self.nms_threshold}
        problems += option_problems(thresholds, self.opts, self.ema and self.weights == "random")
        if problems:
            raise ConfigError(*problems)

    def fetch(self) -> Path | None:
        """Return the weight file, downloaded or verified first; ``None`` for random weights.

        Raises:
            StoreError: The weights are unavailable.
            ModelCorruptError: They differ from what was saved or downloaded.
        """
        if self._stored and self.verify:
            self._stored.verify()
        return self._origin.fetch(self.store.downloads)

    def identity(self) -> dict[str, Any]:
        """Return what distinguishes this model from any other, for the record and fingerprint.

        The network is never used. ``weights_sha256`` is ``None`` for random weights, and for
        weights of the zoo or an address until ``fetch()`` has downloaded them.
        """
        return {
            "name": self.name,
            "tag": str(self._stored.tag) if self._stored else None,
            "config": self._config.name,
            "config_sha256": self._config.sha256,
            "weights": self._origin.kind,
            "weights_sha256": self._origin.sha256,
            "digest": self._stored.digest if self._stored else None,
            "seed": self.seed if self.weights == "random" else None,
            "score_threshold": self.score_threshold,
            "nms_threshold": self.nms_threshold,
            "opts": list(self.opts),
            "ema": self.ema,
            "class_names_sha256": _sha256(asdict(self.categories)),
        }

    def load(self, device: str) -> tuple[Any, nn.Module]:
        """Return Detectron2's ``CfgNode`` and the module in eval mode on ``device``.

        The module is built on the CPU from the seed, so random weights are the same on every
        device. The random state of the process does not change.

        Raises:
            ConfigError: Detectron2 cannot build a model from the config.
            StoreError: The weights are unavailable or do not fit.
        """
        self.check()
        path = self.fetch()
        with architectures.quiet():
            if self._stored and self.trust:
                self._stored.import_modules()
            cfg = self._cfg()
            module = self._stored.build(cfg) if self._stored else None
            module = module or architectures.build(cfg, self.seed)
        if path is not None:
            tensors = read_weights(path, ema=self.ema)
            load_weights(module, tensors, f"the weights of '{path.name}'")
        cfg.MODEL.DEVICE = device
        return cfg, module.eval().to(device)

    def save(self, version: str | None = None) -> Any:
        """Load the model on the CPU and save it in the store under its name.

        Returns:
            The stored model.

        Raises:
            ConfigError: The model or its name cannot be used.
            StoreError: The weights are unavailable or do not fit, or the store cannot be written.
        """
        tag = self.name if version is None else f"{self.name}:{version}"
        self.store.refuse_existing(tag)  # fail before minutes of work
        cfg, module = self.load("cpu")
        return self.store.save_tested(
            tag,
            cfg,
            module.state_dict(),
            self.categories,
            labels=self.labels,
            metadata=self.metadata,
        )

    @cached_property
    def _stored(self) -> StoredModel | None:
        return self.store.get(self.tag, trust=self.trust) if self.tag is not None else None

    @cached_property
    def _config(self) -> ConfigFile:
        return self._stored.config() if self._stored else read_config(self.config or "")

    @cached_property
    def _opts(self) -> dict[str, Any]:
        return dict(zip(map(str, self.opts[::2]), self.opts[1::2], strict=False))

    @property
    def _architecture(self) -> str:
        return str(self._configured("MODEL.META_ARCHITECTURE") or architectures.DEFAULT)

    @cached_property
    def _origin(self) -> Origin:
        if self._stored:
            return Origin("store", self._stored.weights_path)
        mirror = self.store.zoo_url
        return parse_origin(self.weights or "", self._config, self.store.downloads, mirror)

    @cached_property
    def _zoo_categories(self) -> Categories | None:
        """The classes of the dataset that a zoo config names."""
        if not self.config or self.config.removesuffix(".yaml") not in zoo_names():
            return None
        dataset = re.search(r"[\w.-]+", str(self._config.get("DATASETS.TRAIN")))
        return dataset_categories(dataset[0]) if dataset else None

    def _cfg(self) -> Any:
        cfg = make_cfg(self._config, strict=not self._stored)
        keys = architectures.threshold_keys(
            self._architecture, self.score_threshold, self.nms_threshold
        )
        if self.class_names is not None:
            keys |= architectures.class_count_keys(self._architecture, self.categories)
        set_keys(cfg, keys, "model")
        set_keys(cfg, self._opts, "model.opts")
        cfg.MODEL.WEIGHTS = ""
        cfg.MODEL.DEVICE = "cpu"
        return cfg

    def _configured(self, key: str) -> Any:
        """Return the value of a key in the options or the config; ``None`` where it is open."""
        # where the given names set the number of classes, there is no number to compare with
        open_ = self.class_names is not None and self.weights != "zoo" and self._config.in_zoo
        is_count = key.endswith("NUM_CLASSES")
        return self._opts.get(key, None if open_ and is_count else self._config.get(key))

    def _missing(self) -> Iterator[str]:
        own = {"config": self.config, "weights": self.weights, "ema": self.ema or None}
        names = {"class_names": self.class_names, "categories": self.table}
        if self.tag is not None:
            given = [f"model.{key}" for key, value in (own | names).items() if value is not None]
            if given:
                yield f"the stored model '{self.tag}' has its own {', '.join(given)}: remove them"
            return
        lacking = [f"model.{key}" for key in ("config", "weights") if own[key] is None]
        if not (self.class_names is not None or self.table or self._zoo_categories):
            lacking.append("model.class_names")
        if lacking:
            yield (
                f"model '{self.name}' requires {', '.join(lacking)}; for a stored model, set "
                "model.tag instead"
            )

    def _check_classes(self) -> None:
        if problems := architectures.unsupported_settings(self.name, self._configured):
            raise ConfigError(*problems)
        problems = architectures.class_problems(
            self._architecture,
            self.categories,
            configured=self._configured,
            default=self.class_names is None or self.weights == "zoo",
        )
        if problems:
            raise ConfigError(*problems)


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
