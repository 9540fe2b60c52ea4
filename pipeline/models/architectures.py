"""The config keys that each of Detectron2's architectures reads."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError
from pipeline.models.categories import parse_class_names
from pipeline.models.zoo import zoo_root
from pipeline.records import Categories

if TYPE_CHECKING:
    from torch import nn

_log = logging.getLogger("py.warnings")

DEFAULT = "GeneralizedRCNN"  # of Detectron2's defaults

# The config node with the number of classes and the thresholds of instances. Custom architectures,
# which are not listed, are treated as an R-CNN.
_INSTANCES: dict[str, str | None] = {
    "RetinaNet": "MODEL.RETINANET",
    "ProposalNetwork": None,
    "SemanticSegmentor": None,
}
_SEMANTIC = ("PanopticFPN", "SemanticSegmentor")
_STUFF = "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
_KEYPOINTS = "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"
_DEFAULTS = {
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "MODEL.RETINANET.NUM_CLASSES": 80,
    _STUFF: 54,
    _KEYPOINTS: 17,
}

_ROTATED = {
    "MODEL.ANCHOR_GENERATOR.NAME": ("RotatedAnchorGenerator",),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RRPN",),
    "MODEL.ROI_HEADS.NAME": ("RROIHeads",),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignRotated",),
}

Configured = Callable[[str], Any]  # the value of a config key; None where the config leaves it open


def instance_node(architecture: str) -> str | None:
    """Return the config node for instances; ``None`` for an architecture without instances."""
    return _INSTANCES.get(architecture, "MODEL.ROI_HEADS")


def threshold_keys(architecture: str, score: float | None, nms: float | None) -> dict[str, Any]:
    """Return the config keys that hold the thresholds, with their values.

    The NMS of proposals (``MODEL.RPN.NMS_THRESH``) and the minimum score in panoptic maps
    (``MODEL.PANOPTIC_FPN.COMBINE``) are separate settings and not included.

    Raises:
        ConfigError: The architecture has no instances.
    """
    node = instance_node(architecture)
    thresholds = {"SCORE_THRESH_TEST": score, "NMS_THRESH_TEST": nms}
    given = {key: value for key, value in thresholds.items() if value is not None}
    if given and node is None:
        raise ConfigError(
            f"{architecture} has no instances; remove model.score_threshold and model.nms_threshold"
        )
    return {f"{node}.{key}": value for key, value in given.items()}


def parse_classes(class_names: Any, architecture: str, configured: Configured) -> Categories:
    """Return the categories for the given names; see ``categories.parse_class_names``.

    Args:
        class_names: The names.
        architecture: ``MODEL.META_ARCHITECTURE``.
        configured: Returns the value of a config key; ``None`` if the config leaves it open.
    """
    node = instance_node(architecture)
    things = configured(f"{node}.NUM_CLASSES") if node else None
    stuff = configured(_STUFF) if architecture in _SEMANTIC else None
    return parse_class_names(class_names, semantic=node is None, n_things=things, n_stuff=stuff)


def class_count_keys(architecture: str, categories: Categories) -> dict[str, Any]:
    """Return the config keys that hold the numbers of classes, with their values."""
    node = instance_node(architecture)
    counts = {f"{node}.NUM_CLASSES": len(categories.thing_names)} if node else {}
    if architecture in _SEMANTIC:
        counts[_STUFF] = len(categories.stuff_names)
    return counts


def class_problems(
    architecture: str, categories: Categories, configured: Configured, default: bool
) -> list[str]:
    """Compare the numbers of names with the config.

    Args:
        architecture: ``MODEL.META_ARCHITECTURE``.
        categories: The names.
        configured: Returns the value of a config key; ``None`` if the config leaves it open.
        default: Whether an open key has Detectron2's default.
    """
    problems = []
    if architecture == "ProposalNetwork":
        problems.append("a ProposalNetwork detects no classes; choose a config with ROI heads")
    for key, names in class_count_keys(architecture, categories).items():
        expected = configured(key) or (_DEFAULTS[key] if default else None)
        kind = "stuff classes" if key == _STUFF else "classes"
        if not names:
            problems.append(
                f"{architecture} requires names of {kind}; set model.class_names to a COCO .json "
                "whose categories have isthing"
            )
        elif expected not in (None, names):
            problems.append(
                f"class_names has {names} {kind}, but {key} is {expected}; give as many "
                "names as the weights have classes"
            )
    points, expected = len(categories.keypoint_names), configured(_KEYPOINTS)
    expected = expected or _DEFAULTS[_KEYPOINTS]
    if configured("MODEL.KEYPOINT_ON") and points not in (0, expected):
        problems.append(
            f"class_names has {points} keypoints, but {_KEYPOINTS} is {expected}; give the "
            "keypoints that the weights were trained with"
        )
    return problems


def unsupported_settings(name: str, configured: Configured) -> list[str]:
    """Return what a config requires that d2run cannot run, as far as the config alone shows it.

    Args:
        name: Name of the model.
        configured: Returns the value of a config key; ``None`` if the config leaves it open.
    """
    problems = []
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        value = configured(key)
        if isinstance(value, (list, tuple)) and len(value) != 3:
            problems.append(
                f"{key} has {len(value)} values, so the model expects images of {len(value)} "
                "channels; d2run provides 3"
            )
        elif isinstance(value, (list, tuple)) and key.endswith("STD") and 0 in value:
            problems.append(f"{key} is {value}; pixels cannot be divided by 0")
    if configured("INPUT.FORMAT") not in (None, "RGB", "BGR"):
        problems.append(f"INPUT.FORMAT: expected RGB or BGR, got {configured('INPUT.FORMAT')}")
    proposals = "MODEL.PROPOSAL_GENERATOR.NAME"
    if (
        configured("MODEL.LOAD_PROPOSALS") is True
        or configured(proposals) == "PrecomputedProposals"
    ):
        problems.append(
            "the model requires precomputed proposals, like Fast R-CNN, and images have none; use "
            f"a model with its own {proposals}, such as RPN"
        )
    rotated = (
        f"{key} {configured(key)}" for key, names in _ROTATED.items() if configured(key) in names
    )
    if found := next(rotated, None):
        problems.append(f"the model detects rotated boxes ({found}), which are not supported")
    if _any(configured("MODEL.RESNETS.DEFORM_ON_PER_STAGE")) and not _is_compiled():
        problems.append(
            "the model has deformable convolutions (MODEL.RESNETS.DEFORM_ON_PER_STAGE), which "
            "require a Detectron2 with compiled operators; install an official build"
        )
    if str(configured("MODEL.META_ARCHITECTURE")).startswith("PanopticDeepLab"):
        problems.append("Panoptic-DeepLab is not supported; the panoptic model is PanopticFPN")
    return [f"model '{name}' cannot run: {problem}" for problem in problems]


def _any(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(value)


def _is_compiled() -> bool:
    # looks for the file, because importing the package would import torch
    return any(zoo_root().parent.parent.glob("_C*"))


def class_counts(cfg: Any) -> tuple[int, int]:
    """Return the numbers of thing and stuff classes of a complete ``CfgNode``."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    node = instance_node(architecture)
    things = cfg_value(cfg, f"{node}.NUM_CLASSES") if node else 0
    return int(things or 0), cfg_value(cfg, _STUFF) if architecture in _SEMANTIC else 0


def relevant_categories(cfg: Any, categories: Categories) -> Categories:
    """Return categories without the kinds of names that the model of a config has no head for."""
    things, stuff = class_counts(cfg)
    keypoints = cfg.MODEL.KEYPOINT_ON
    return Categories(
        thing_names=categories.thing_names if things else (),
        thing_ids=categories.thing_ids if things else (),
        stuff_names=categories.stuff_names if stuff else (),
        stuff_ids=categories.stuff_ids if stuff else (),
        keypoint_names=categories.keypoint_names if keypoints else (),
        skeleton=categories.skeleton if keypoints else (),
    )


def cfg_categories(cfg: Any, class_names: Any) -> Categories:
    """Return the categories for the names given with a complete ``CfgNode``.

    Raises:
        ConfigError: The names cannot be read, or their number differs from the config's.
    """
    architecture = cfg.MODEL.META_ARCHITECTURE
    found = parse_classes(class_names, architecture, lambda key: cfg_value(cfg, key))
    if problems := count_problems(cfg, found):
        raise ConfigError(*problems)
    return found


def count_problems(cfg: Any, categories: Categories) -> list[str]:
    """Compare the numbers of names with those of a complete ``CfgNode``."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    return class_problems(architecture, categories, lambda key: cfg_value(cfg, key), default=False)


def cfg_value(cfg: Any, key: str) -> Any:
    """Return the value of a dotted key of a ``CfgNode``; ``None`` where it has none."""
    for part in key.split("."):
        cfg = cfg.get(part) if cfg is not None else None
    return cfg


@contextmanager
def quiet() -> Iterator[None]:
    """Log the developer warnings of Detectron2 and torch as information."""
    import torch  # noqa: F401 - importing it sets the level of its logger

    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            yield
        finally:
            logger.setLevel(level)
            for each in caught:
                where = f"{each.filename}:{each.lineno}"
                _log.info("%s: %s: %s", where, each.category.__name__, each.message)


def build(cfg: Any, seed: int) -> nn.Module:
    """Return a new module on the CPU, with weights drawn from the seed.

    Raises:
        ConfigError: Detectron2 cannot build it.
    """
    import torch
    from detectron2.modeling import build_model

    # torch.manual_seed would also seed every GPU, so only the CPU generator is seeded and restored
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            module: nn.Module = build_model(cfg)
        except Exception as exc:  # asserts and KeyErrors from many of its modules
            raise ConfigError(
                f"Detectron2 cannot build the model: {type(exc).__name__}: {exc}; check "
                "model.config and model.opts"
            ) from exc
    return module
