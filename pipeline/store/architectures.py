"""Which keys of a config each of Detectron2's architectures reads."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError
from pipeline.types import Categories

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
    points = len(categories.keypoint_names)
    if points and points != (said(_KEYPOINTS) or _DEFAULTS[_KEYPOINTS]):
        problems.append(f"there are names for {points} keypoints, but {_KEYPOINTS} differs")
    return problems


def counts_in(cfg: Any) -> tuple[int, int]:
    """Return the numbers of things and of stuff classes that a whole ``CfgNode`` says."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    node = instance_node(architecture)
    things = _value(cfg, f"{node}.NUM_CLASSES") if node else 0
    return int(things or 0), _value(cfg, _STUFF) if architecture in _SEMANTIC else 0


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


def count_problems(cfg: Any, categories: Categories) -> list[str]:
    """Compare the numbers of names with those of a whole ``CfgNode``."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    return class_problems(architecture, categories, lambda key: _value(cfg, key), default=False)


def _value(cfg: Any, key: str) -> Any:
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
