"""Which keys of a config each of Detectron2's architectures reads."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError
from pipeline.models.categories import named
from pipeline.models.zoo import zoo_root
from pipeline.records import Categories

if TYPE_CHECKING:
    from torch import nn

_log = logging.getLogger("py.warnings")

DEFAULT = "GeneralizedRCNN"  # of Detectron2's defaults

# Where the instances' number of classes and thresholds stand. An architecture that is not listed
# (a user's own) is taken for an R-CNN.
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


def instance_node(architecture: str) -> str | None:
    """Return the node with the settings of instances; ``None`` where there are no instances."""
    return _INSTANCES.get(architecture, "MODEL.ROI_HEADS")


def threshold_keys(architecture: str, score: float | None, nms: float | None) -> dict[str, float]:
    """Return the keys to set for thresholds.

    The proposals' own suppression (``MODEL.RPN.NMS_THRESH``) and the score from which an instance
    enters a panoptic map (``MODEL.PANOPTIC_FPN.COMBINE``) are other questions, and left alone.

    Raises:
        ConfigError: The architecture makes no instances.
    """
    node = instance_node(architecture)
    wanted = {"SCORE_THRESH_TEST": score, "NMS_THRESH_TEST": nms}
    given = {key: value for key, value in wanted.items() if value is not None}
    if given and node is None:
        raise ConfigError(
            f"{architecture} makes no instances: leave out score_threshold and nms_threshold"
        )
    return {f"{node}.{key}": value for key, value in given.items()}


def name_classes(class_names: Any, architecture: str, said: Callable[[str], Any]) -> Categories:
    """Return the categories that a user names for an architecture; see ``categories.named``.

    Args:
        class_names: The names.
        architecture: ``MODEL.META_ARCHITECTURE``.
        said: What the config says of a key; ``None`` where it leaves the key open.
    """
    node = instance_node(architecture)
    things = said(f"{node}.NUM_CLASSES") if node else None
    stuff = said(_STUFF) if architecture in _SEMANTIC else None
    return named(class_names, semantic=node is None, n_things=things, n_stuff=stuff)


def class_counts(architecture: str, categories: Categories) -> dict[str, int]:
    """Return the keys that hold numbers of classes, and the numbers."""
    node = instance_node(architecture)
    counts = {f"{node}.NUM_CLASSES": len(categories.thing_names)} if node else {}
    if architecture in _SEMANTIC:
        counts[_STUFF] = len(categories.stuff_names)
    return counts


def class_problems(
    architecture: str, categories: Categories, said: Callable[[str], Any], default: bool
) -> list[str]:
    """Compare the numbers of names with the config's.

    Args:
        architecture: ``MODEL.META_ARCHITECTURE``.
        categories: The names.
        said: What the config says of a key; ``None`` where it leaves the key open.
        default: Whether an open key stands for Detectron2's default.
    """
    problems = []
    if architecture == "ProposalNetwork":
        problems.append("a ProposalNetwork finds no classes; choose a config with ROI heads")
    for key, names in class_counts(architecture, categories).items():
        expected = said(key) or (_DEFAULTS[key] if default else None)
        kind = "stuff classes" if key == _STUFF else "classes"
        if not names:
            problems.append(
                f"{architecture} needs names of {kind}: give model.class_names as a COCO .json "
                "whose categories say isthing"
            )
        elif expected not in (None, names):
            problems.append(
                f"there are names for {names} {kind}, but {key} is {expected}; give as many "
                "model.class_names as the weights know"
            )
    points, expected = len(categories.keypoint_names), said(_KEYPOINTS) or _DEFAULTS[_KEYPOINTS]
    if said("MODEL.KEYPOINT_ON") and points not in (0, expected):
        problems.append(
            f"there are names for {points} keypoints, but {_KEYPOINTS} is {expected}; give the "
            "names of those that the weights know"
        )
    return problems


def unsupported(name: str, said: Callable[[str], Any]) -> list[str]:
    """Name what a config asks for that no run can do, as far as that is known without building it.

    Args:
        name: Of the model.
        said: What the config says of a key; ``None`` where it leaves the key open.
    """
    problems = []
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        value = said(key)
        if isinstance(value, (list, tuple)) and len(value) != 3:
            problems.append(
                f"{key} has {len(value)} values: the model takes images of {len(value)} channels, "
                "and d2run gives it 3"
            )
        elif isinstance(value, (list, tuple)) and key.endswith("STD") and 0 in value:
            problems.append(f"{key} is {value}: pixels cannot be divided by 0")
    if said("INPUT.FORMAT") not in (None, "RGB", "BGR"):
        problems.append(f"INPUT.FORMAT is {said('INPUT.FORMAT')}; it must be RGB or BGR")
    proposals = "MODEL.PROPOSAL_GENERATOR.NAME"
    if said("MODEL.LOAD_PROPOSALS") is True or said(proposals) == "PrecomputedProposals":
        problems.append(
            "the model needs precomputed proposals, as Fast R-CNN does, and an image brings none; "
            f"use a model with a {proposals} of its own, such as RPN"
        )
    rotated = (f"{key} {said(key)}" for key, names in _ROTATED.items() if said(key) in names)
    if found := next(rotated, None):
        problems.append(f"the model finds rotated boxes ({found}), which are not supported")
    if _any(said("MODEL.RESNETS.DEFORM_ON_PER_STAGE")) and not _is_compiled():
        problems.append(
            "the model has deformable convolutions (MODEL.RESNETS.DEFORM_ON_PER_STAGE), which need "
            "a Detectron2 with compiled operators; install an official build of it"
        )
    if str(said("MODEL.META_ARCHITECTURE")).startswith("PanopticDeepLab"):
        problems.append("Panoptic-DeepLab is not supported; the panoptic model is PanopticFPN")
    return [f"model '{name}' cannot run: {problem}" for problem in problems]


def _any(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(value)


def _is_compiled() -> bool:
    # the package is not imported: that would import torch
    return any(zoo_root().parent.parent.glob("_C*"))


def counts_in(cfg: Any) -> tuple[int, int]:
    """Return the numbers of things and of stuff classes that a whole ``CfgNode`` says."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    node = instance_node(architecture)
    things = value(cfg, f"{node}.NUM_CLASSES") if node else 0
    return int(things or 0), value(cfg, _STUFF) if architecture in _SEMANTIC else 0


def relevant(cfg: Any, categories: Categories) -> Categories:
    """Leave out the kinds of names that a model of a config has no head for."""
    things, stuff = counts_in(cfg)
    keypoints = cfg.MODEL.KEYPOINT_ON
    return Categories(
        thing_names=categories.thing_names if things else (),
        thing_ids=categories.thing_ids if things else (),
        stuff_names=categories.stuff_names if stuff else (),
        stuff_ids=categories.stuff_ids if stuff else (),
        keypoint_names=categories.keypoint_names if keypoints else (),
        skeleton=categories.skeleton if keypoints else (),
    )


def names_for(cfg: Any, class_names: Any) -> Categories:
    """Return the categories that a user names for a whole ``CfgNode``.

    Raises:
        ConfigError: The names cannot be read, or are not as many as the config says.
    """
    found = name_classes(class_names, cfg.MODEL.META_ARCHITECTURE, lambda key: value(cfg, key))
    if problems := count_problems(cfg, found):
        raise ConfigError(*problems)
    return found


def count_problems(cfg: Any, categories: Categories) -> list[str]:
    """Compare the numbers of names with those of a whole ``CfgNode``."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    return class_problems(architecture, categories, lambda key: value(cfg, key), default=False)


def value(cfg: Any, key: str) -> Any:
    """Return the value of a dotted key of a ``CfgNode``; ``None`` where it has none."""
    for part in key.split("."):
        cfg = cfg.get(part) if cfg is not None else None
    return cfg


@contextmanager
def quiet() -> Iterator[None]:
    """Log, as information, what Detectron2 and torch warn their own developers of."""
    import torch  # noqa: F401 - it sets its logger's level when it is imported

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
    """Return a new module on the CPU, its weights drawn from the seed.

    Raises:
        ConfigError: Detectron2 cannot build it.
    """
    import torch
    from detectron2.modeling import build_model

    # Only the CPU's generator is used and put back: torch.manual_seed would seed every GPU as well.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            module: nn.Module = build_model(cfg)
        except Exception as exc:  # asserts and KeyErrors, each of another of its modules
            raise ConfigError(
                f"Detectron2 cannot build the model: {type(exc).__name__}: {exc}; see model.config "
                "and model.opts"
            ) from exc
    return module
