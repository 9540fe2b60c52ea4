"""Families and custom variants against DefaultPredictor, with one, two and four forwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_model import ARCHITECTURES, RandomModel, photo, reference
from scripted import run

from pipeline.records import Frame, Predictions, Result
from pipeline.runnables.detectron2 import Detectron2

pytestmark = pytest.mark.detectron2

SCORE = 0.05  # only detections above it are compared
MASK, BOX = "MODEL.ROI_MASK_HEAD.", "MODEL.ROI_BOX_HEAD."
CLASSES = (  # few classes, so that random weights give scores above it
    "MODEL.ROI_HEADS.NUM_CLASSES", 5, "MODEL.RETINANET.NUM_CLASSES", 5,
    "MODEL.RETINANET.PRIOR_PROB", 0.45,
)  # fmt: skip
SMALL = (
    "MODEL.RPN.POST_NMS_TOPK_TEST", 50, "INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 144,
    "TEST.DETECTIONS_PER_IMAGE", 20,
)  # fmt: skip
TINY = (
    "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.FPN.OUT_CHANNELS", 32,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, BOX + "FC_DIM", 32, BOX + "CONV_DIM", 32,
    MASK + "CONV_DIM", 32, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (16, 16),
)  # fmt: skip


def norms(kind: str) -> tuple[Any, ...]:
    return (
        BOX + "NAME", "FastRCNNConvFCHead", BOX + "NUM_CONV", 2, BOX + "NORM", kind,
        MASK + "NORM", kind, "MODEL.FPN.NORM", kind,
    )  # fmt: skip


FAMILIES: dict[str, tuple[str, tuple[Any, ...]]] = {
    name: (name, ()) for name in ARCHITECTURES if name != "mask_rcnn_c4"
}
CUSTOM: dict[str, tuple[str, tuple[Any, ...]]] = {
    "rgb": ("mask_rcnn", ("INPUT.FORMAT", "RGB")),
    "pixels": (
        "mask_rcnn",
        ("MODEL.PIXEL_MEAN", [90.0, 120.5, 60.0], "MODEL.PIXEL_STD", [57.0, 31.5, 80.0]),
    ),
    "gn heads": ("mask_rcnn", norms("GN")),
    "bn heads": ("mask_rcnn", norms("BN")),
    "syncbn heads": ("mask_rcnn", norms("SyncBN")),
    "cascade": (
        "faster_rcnn",
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", BOX + "CLS_AGNOSTIC_BBOX_REG", True),
    ),
    "c4": ("mask_rcnn_c4", ("MODEL.RPN.POST_NMS_TOPK_TEST", 30)),
    "dc5": ("COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_3x.yaml", ()),
    "class-agnostic": (
        "mask_rcnn",
        (BOX + "CLS_AGNOSTIC_BBOX_REG", True, MASK + "CLS_AGNOSTIC_MASK", True),
    ),
    "5 keypoints": ("keypoint_rcnn", ("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 5)),
    "retinanet bn": ("retinanet", ("MODEL.RETINANET.NORM", "BN")),
    "stateful backbone": ("mask_rcnn", ()),
}
STATEFUL = {"retinanet bn": "CycleBatchNormList", "stateful backbone": "Drifting"}


@dataclass
class Variant(RandomModel):
    """A model with statistics in its norms, and perhaps a backbone with state."""

    def _load(self, device: str) -> tuple[Any, Any]:
        import torch

        cfg, module = super()._load(device)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(5)
            for each in module.modules():
                if isinstance(each, torch.nn.modules.batchnorm._BatchNorm):
                    each.running_mean.normal_(0, 0.1)
                    each.running_var.uniform_(0.5, 1.5)
        if self.name == "stateful backbone":
            module.backbone = drifting(module.backbone)
        return cfg, module


def drifting(backbone: Any) -> Any:
    import torch
    from detectron2.modeling import Backbone

    class Drifting(Backbone):  # type: ignore[misc]
        """Keeps its maps in an attribute, and changes them slightly with each call."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = backbone
            self.calls = 0
            self.register_buffer("level", torch.zeros(()))

        def forward(self, x: Any) -> Any:
            self.calls += 1
            self.level.mul_(0.5).add_(x.mean().tanh())
            self.maps = self.inner(x)
            time.sleep(0.02)  # time for another thread
            change = 1 + 0.02 * self.calls + 0.1 * self.level
            return {name: each * change for name, each in self.maps.items()}

        def output_shape(self) -> Any:
            return self.inner.output_shape()

        @property
        def size_divisibility(self) -> int:
            return int(self.inner.size_divisibility)

    return Drifting().eval()


def model_of(name: str, more: tuple[Any, ...]) -> Variant:
    base, opts = (FAMILIES | CUSTOM)[name]
    classes = CLASSES[2:] if base == "keypoint_rcnn" else CLASSES
    return Variant(
        ARCHITECTURES.get(base, base), (*classes, *SMALL, *more, *opts), spread=3, name=name
    )


@dataclass
class Photo:
    id: str
    image: np.ndarray
    path: Path = Path("x")
    is_still: bool = True

    def fingerprint(self) -> str:
        return self.id

    def frames(self) -> Iterator[Frame]:
        yield Frame(self.image, self.id)


@dataclass
class Kept:
    """A sink that keeps the predictions."""

    found: dict[str, Predictions] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def begin(self, asset: Any) -> None:
        pass

    def write(self, result: Result) -> None:
        self.found[result.frame.asset_id] = result.predictions

    def flush(self, asset: Any) -> None:
        pass

    def discard(self, asset: Any) -> None:
        pass


def images(n: int) -> list[np.ndarray]:
    names = ("chelsea", "astronaut", "coffee", "chelsea")
    return [np.ascontiguousarray(np.rot90(photo(names[i % 4]), i // 2)) for i in range(n)]


def predicted_by(
    model: Variant, photos: list[np.ndarray], runs: int, **options: Any
) -> list[list[Predictions]]:
    """Return the predictions of each run; a model with state is loaded for each."""
    if model.name in STATEFUL and runs > 1:
        return [predicted_by(model, photos, 1, **options)[0] for _ in range(runs)]
    found = []
    assets = [Photo(f"{i:02}", image) for i, image in enumerate(photos)]
    with Detectron2(model, "cpu", **options) as runnable:
        said = runnable.describe()
        if model.name in STATEFUL:
            assert said["forwards"] == 1
            assert STATEFUL[model.name] in said["forwards_reason"]
        elif not options.get("exact"):
            assert said["forwards"] == options["forwards"]
        for _ in range(runs):
            kept = Kept()
            outcomes = run(assets, runnable=runnable, sinks={"kept": kept}, decode_threads=2)
            assert [outcome.error for outcome in outcomes] == [None] * len(photos)
            found.append([kept.found[asset.id] for asset in assets])
    return found


def as_bytes(predictions: Predictions) -> tuple[Any, ...]:
    names = ("boxes", "scores", "classes", "keypoints", "sem_seg", "panoptic_seg")
    arrays = [getattr(predictions, name) for name in names]
    rle = None if predictions.masks is None else str(predictions.masks.rle())
    return (*(None if each is None else each.tobytes() for each in arrays), rle)


def reference_results(model: Variant, photos: list[np.ndarray]) -> list[dict[str, Any]]:
    """Return DefaultPredictor's results with a model that was just loaded."""
    cfg, module = model.load("cpu")
    fresh = Variant(model.config, model.opts, name=model.name)
    fresh._loaded["cpu"] = cfg, module
    return reference(fresh, photos)


def assert_paired(got: Predictions, want: dict[str, Any], box_px: float, score: float) -> int:
    """Check that detections above the threshold pair; return their number."""
    n = 0
    if "instances" in want:
        theirs = want["instances"]
        boxes, scores = theirs.pred_boxes.tensor.numpy(), theirs.scores.numpy()
        near = np.abs(got.boxes[:, None] - boxes).max(axis=2) <= box_px
        near &= np.abs(got.scores[:, None] - scores) <= score
        near &= got.classes[:, None] == theirs.pred_classes.numpy()
        assert near.any(axis=0)[scores > SCORE + score].all()
        assert near.any(axis=1)[got.scores > SCORE + score].all()
        assert (got.masks is not None) == theirs.has("pred_masks")
        if got.masks is not None and len(got):
            i, j = np.argwhere(near).T
            pairs = zip(got.masks[i].dense(), theirs.pred_masks.numpy()[j], strict=True)
            assert np.median([(a != b).mean() for a, b in pairs]) < 1e-4
        if got.keypoints is not None:
            assert got.keypoints.shape == theirs.pred_keypoints.shape
        n += int((scores > SCORE).sum())
    if "sem_seg" in want:
        assert (got.sem_seg != want["sem_seg"].argmax(dim=0).numpy()).mean() < 1e-3
        n += 1
    if "panoptic_seg" in want:
        assert (got.panoptic_seg != want["panoptic_seg"][0].numpy()).mean() < 1e-2
    return n


def check(name: str, more: tuple[Any, ...], n_images: int, forwards: tuple[int, ...]) -> None:
    model, photos = model_of(name, more), images(n_images)
    expected = reference_results(model, photos)
    (exact,) = predicted_by(model, photos, 1, exact=True)
    counts = [
        assert_paired(got, want, 1e-3, 1e-4) for got, want in zip(exact, expected, strict=True)
    ]
    assert min(counts) > 0
    for n in forwards:
        first, *others = predicted_by(model, photos, 3, forwards=n)
        for got, want in zip(first, expected, strict=True):
            assert_paired(got, want, 0.05, 1e-3)
        for other in others:
            assert [*map(as_bytes, other)] == [*map(as_bytes, first)]


@pytest.mark.parametrize("name", ["gn heads", "cascade", *STATEFUL])
def test_small(name: str) -> None:
    check(name, TINY, 2, (2,))


@pytest.mark.nightly
@pytest.mark.parametrize("name", [*FAMILIES, *CUSTOM])
def test_at_full_depth(name: str) -> None:
    check(name, (), 3, (1, 2, 4))
