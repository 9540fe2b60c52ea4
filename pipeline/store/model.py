"""What ``model=`` describes: checked without torch, loaded on request."""

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
from pipeline.models.categories import of_dataset, table
from pipeline.models.config_file import ConfigFile, make_cfg, read_config, read_plain, set_keys
from pipeline.models.origin import Origin, origin
from pipeline.models.weights.weights import load_weights, read_weights
from pipeline.models.zoo import zoo_names
from pipeline.records import Categories
from pipeline.store.api.custom import import_modules
from pipeline.store.api.predictor import build_stored
from pipeline.store.api.saving import put
from pipeline.store.disk.entry import CONFIG, WEIGHTS, StoredModel
from pipeline.store.disk.local import ModelStore

if TYPE_CHECKING:
    from torch import nn

_ELSEWHERE = {  # keys of Detectron2 that have a place of their own here
    "MODEL.WEIGHTS": "model.weights",
    "MODEL.DEVICE": "device",
}


class Model:
    """A Detectron2 model: a config, weights and classes, or the tag of a stored one.

    Args:
        name: For people, and for the store when it is saved.
        config: A config of the model zoo, by name, or a YAML file.
        weights: ``zoo``, a path, an http(s) address, or ``random``.
        variant: What the YAML of ``model=`` puts into ``config``; not used here.
        categories: A built-in table, for configs that are not the zoo's: ``coco``, ``coco_person``,
            ``coco_panoptic``, ``coco_stuff``.
        class_names: Names by class id, ids and names, or a file (see ``categories.named``); set the
            number of classes where the config leaves it open. A config of the zoo has the names of
            its data set by default.
        score_threshold: Least score of an instance; by default the config's.
        nms_threshold: Largest overlap of two instances of a class; by default the config's.
        opts: Detectron2's own ``[KEY, VALUE, ...]``; the last word on any key.
        tag: A stored model, which brings its config, weights and classes.
        trust: Import the Python modules that a stored model brings; they may run any code.
        verify: Compare the files of a stored model with their SHA-256 before loading it.
        ema: Take the averaged weights (``ema_state``) of a training checkpoint.
        labels: Words to find it by, when it is saved.
        metadata: Plain values to keep with it, when it is saved.
        store: Where stored models and downloads lie.
        seed: Of random weights.

    Attributes:
        warnings: Sentences for people that belong to the results.
    """

    def __init__(
        self,
        name: str,
        *,
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
        store: ModelStore | None = None,
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
        self.labels = dict(labels or {})
        self.metadata = dict(metadata or {})
        self.store = store or ModelStore()
        self.seed = seed
        self.warnings: list[str] = []
        if weights == "random":
            self.warnings.append(
                f"model '{name}' has random weights (seed {seed}): its results mean nothing"
            )

    @cached_property
    def categories(self) -> Categories:
        """What it can tell apart.

        Raises:
            ConfigError: Something is missing, or the names cannot be read.
        """
        if problems := list(self._missing()):
            raise ConfigError(*problems)
        if self._stored:
            return self._stored.categories
        if self.class_names is not None:
            return architectures.name_classes(self.class_names, self._architecture, self._said)
        return self._trained_on or table(self.table or "")

    def check(self) -> None:
        """Find what is wrong without torch and without the network.

        Raises:
            ConfigError: Lists every problem.
            ModelNotFoundError: The store has no such tag.
            UntrustedModelError: The config has a tag that would run code.
        """
        problems = list(self._missing())
        if not problems:
            for part in (lambda: self._config, lambda: self._origin.check(), self._check_classes):
                try:
                    part()
                except ConfigError as exc:
                    problems += [text for text in exc.problems if text not in problems]
        problems += self._bad_values()
        if problems:
            raise ConfigError(*problems)

    def fetch(self) -> Path | None:
        """Return the weight file, downloaded or verified first; ``None`` for random weights.

        Raises:
            StoreError: It cannot be had.
            ModelCorruptError: It is not what was saved or downloaded.
        """
        if self._stored and self.verify:
            self._stored.verify()
        return self._origin.fetch(self.store.downloads)

    def identity(self) -> dict[str, Any]:
        """Return what tells this model from any other, for the record and the fingerprint.

        It never uses the network: ``weights_sha256`` is ``None`` for random weights, and for the
        zoo's or an address's until ``fetch()`` has brought them.
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

        The module is built on the CPU from the seed, so that random weights are the same on every
        device; the random state of the process stays as it was.

        Raises:
            ConfigError: The config does not describe a model that Detectron2 can build.
            StoreError: The weights cannot be had or do not fit.
        """
        self.check()
        path = self.fetch()
        with architectures.quiet():
            if self._stored and self.trust:
                import_modules(self._stored)
            cfg = self._cfg()
            module = build_stored(self._stored, cfg) if self._stored else None
            module = module or architectures.build(cfg, self.seed)
        if path is not None:
            tensors = read_weights(path, ema=self.ema)
            load_weights(module, tensors, f"the weights of '{path.name}'")
        cfg.MODEL.DEVICE = device
        return cfg, module.eval().to(device)

    def save(self, version: str | None = None) -> StoredModel:
        """Load the model on the CPU and save it into the store under its name.

        Raises:
            ConfigError: The model or its name cannot be used.
            StoreError: The weights cannot be had or do not fit, or the store cannot be written.
        """
        tag = self.name if version is None else f"{self.name}:{version}"
        self.store.refuse_existing(tag)  # before minutes of work
        cfg, module = self.load("cpu")
        return put(
            self.store,
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
        if not self._stored:
            return read_config(self.config or "")
        return ConfigFile(CONFIG, read_plain(self._stored.file(CONFIG)), in_zoo=False)

    @cached_property
    def _opts(self) -> dict[str, Any]:
        return dict(zip(map(str, self.opts[::2]), self.opts[1::2], strict=False))

    @property
    def _architecture(self) -> str:
        return str(self._said("MODEL.META_ARCHITECTURE") or architectures.DEFAULT)

    @cached_property
    def _origin(self) -> Origin:
        if self._stored:
            return Origin("store", self._stored.path / WEIGHTS)
        mirror = self.store.zoo_url
        return origin(self.weights or "", self._config, self.store.downloads, mirror)

    def _cfg(self) -> Any:
        cfg = make_cfg(self._config, strict=not self._stored)
        keys = architectures.threshold_keys(
            self._architecture, self.score_threshold, self.nms_threshold
        )
        if self.class_names is not None:
            keys |= architectures.class_counts(self._architecture, self.categories)
        set_keys(cfg, keys, "model")
        set_keys(cfg, self._opts, "opts")
        cfg.MODEL.WEIGHTS = ""
        cfg.MODEL.DEVICE = "cpu"
        return cfg

    def _missing(self) -> Iterator[str]:
        own = {"config": self.config, "weights": self.weights, "ema": self.ema or None}
        names = {"class_names": self.class_names, "categories": self.table}
        if self.tag is not None:
            given = [key for key, value in (own | names).items() if value is not None]
            if given:
                yield f"the stored model '{self.tag}' has its own {', '.join(given)}; leave out"
            return
        lacking = [f"model.{key}" for key in ("config", "weights") if own[key] is None]
        if not (self.class_names is not None or self.table or self._trained_on):
            lacking.append("model.class_names")
        if lacking:
            yield (
                f"{', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} required for model "
                f"'{self.name}'; or model.tag, for one from the store"
            )

    @cached_property
    def _trained_on(self) -> Categories | None:
        """The classes of the data set that a config of the zoo names."""
        if not self.config or self.config.removesuffix(".yaml") not in zoo_names():
            return None
        dataset = re.search(r"[\w.-]+", str(self._config.get("DATASETS.TRAIN")))
        return of_dataset(dataset[0]) if dataset else None

    def _said(self, key: str) -> Any:
        """Return what the options or the config say of a key; ``None`` where it is open."""
        # where the user's names may set the number of classes, there is nothing to compare with
        open_ = self.class_names is not None and self.weights != "zoo" and self._config.in_zoo
        counts = key.endswith("NUM_CLASSES")
        return self._opts.get(key, None if open_ and counts else self._config.get(key))

    def _check_classes(self) -> None:
        if problems := architectures.unsupported(self.name, self._said):
            raise ConfigError(*problems)
        problems = architectures.class_problems(
            self._architecture,
            self.categories,
            said=self._said,
            default=self.class_names is None or self.weights == "zoo",
        )
        if problems:
            raise ConfigError(*problems)

    def _bad_values(self) -> Iterator[str]:
        for key in ("score_threshold", "nms_threshold"):
            value = getattr(self, key)
            if value is not None and not 0 <= value <= 1:
                yield f"{key} is {value}; it must be between 0 and 1"
        if len(self.opts) % 2 or not all(isinstance(key, str) for key in self.opts[::2]):
            yield f"opts must be KEY, VALUE, KEY, VALUE, ...; got {self.opts}"
        if self.ema and self.weights == "random":
            yield "ema: random weights have no averages; give the checkpoint of a training"
        for key, place in _ELSEWHERE.items():
            if key in self._opts:
                yield f"opts: set {place}=... instead of {key}"


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
