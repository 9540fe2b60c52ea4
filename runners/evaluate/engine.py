"""Runs COCO's evaluation: with hotcoco if it is installed, otherwise with pycocotools.

Both have the same interface and give the same numbers, to the last bit.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = {"box": "bbox", "mask": "segm", "keypoints": "keypoints"}
_KEYS = {"box": ("bbox",), "mask": ("segmentation",), "keypoints": ("bbox", "keypoints")}
_EVERY_AREA = [0, 1e10]
_NO_LIMIT = 1_000_000  # detections per image


def has_hotcoco() -> bool:
    """Return whether the extra ``evaluate`` is installed."""
    return find_spec("hotcoco") is not None


def engine_name() -> str:
    """Return the library that computes, with its version."""
    name = "hotcoco" if has_hotcoco() else "pycocotools"
    return f"{name} {version(name)}"


@dataclass(frozen=True)
class Dataset:
    """What is compared: ground truth and detections of the evaluated images and classes.

    Attributes:
        images: COCO's images, sorted by id.
        categories: COCO's categories, sorted by id.
        annotations: Of these images and classes.
        detections: Of these images and classes, as in ``coco_results.json``.
        sigmas: Per keypoint, how precisely people place it; ``None``: those of COCO's 17.
    """

    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    detections: list[dict[str, Any]]
    sigmas: Sequence[float] | None = None
    _truths: dict[str, Any] = field(default_factory=dict, repr=False)  # loaded, by kind
    _found: dict[str, Any] = field(default_factory=dict, repr=False)

    def with_detections(self, detections: list[dict[str, Any]]) -> Dataset:
        """Return the same ground truth with other detections."""
        return Dataset(
            self.images, self.categories, self.annotations, detections, self.sigmas, self._truths
        )

    def judge(self, kind: str, image_ids: Iterable[Any] | None = None) -> Any:
        """Return the library's ``COCOeval``, not evaluated yet.

        Args:
            kind: ``box``, ``mask`` or ``keypoints``.
            image_ids: Evaluate only these images.
        """
        fast = has_hotcoco()
        coco = import_module("hotcoco" if fast else "pycocotools.coco").COCO
        coco_eval = import_module("hotcoco" if fast else "pycocotools.cocoeval").COCOeval
        with redirect_stdout(io.StringIO()):
            if kind not in self._truths:
                self._truths[kind] = _loaded(coco, self._content(kind))
            truth = self._truths[kind]
            if kind not in self._found:
                keys = ("image_id", "category_id", "score", *_KEYS[kind])
                given = [
                    {key: each[key] for key in keys if key in each} for each in self.detections
                ]
                empty = _loaded(coco, self._content(kind, []))
                self._found[kind] = truth.loadRes(given) if given else empty
            judge = coco_eval(truth, self._found[kind], KINDS[kind])
        judge.params.imgIds = sorted(
            image["id"] for image in self.images if image_ids is None or image["id"] in image_ids
        )
        judge.params.catIds = [each["id"] for each in self.categories]
        if kind == "keypoints" and self.sigmas is not None:
            sigmas = list(self.sigmas)
            judge.params.kpt_oks_sigmas = sigmas if fast else np.array(sigmas)
        return judge

    def _content(self, kind: str, annotations: list[Any] | None = None) -> dict[str, Any]:
        if annotations is None:
            key = {"box": "bbox", "mask": "segmentation", "keypoints": "keypoints"}[kind]
            annotations = [dict(each) for each in self.annotations if key in each]
        return {
            "info": {},
            "images": self.images,
            "categories": self.categories,
            "annotations": annotations,
        }


@dataclass(frozen=True)
class Arrays:
    """COCO's arrays, as ``COCOeval.accumulate`` returns them; -1 where there is no ground truth.

    Attributes:
        precision: IoU, recall, class, area, number of detections.
        recall: IoU, class, area, number of detections.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """The detections and annotations that belong to each other at one IoU.

    The rows of detections are sorted by image, then class, then falling score.

    Attributes:
        detection_image: int64 (N,), index into the images.
        detection_class: int64 (N,), index into the classes.
        score: float64 (N,).
        hit: bool (N,), whether the detection has an annotation that counts.
        ignored: bool (N,), whether it counts neither as right nor as wrong, as in a crowd.
        partner: int64 (N,), index of the class of its annotation, -1 without one.
        detection: int64 (N,), index into the detections.
        partner_truth: int64 (N,), index of its annotation, -1 without one.
        truth_image: int64 (M,), index into the images; only annotations that count.
        truth_class: int64 (M,), index into the classes.
        truth_score: float64 (M,), score of its detection, -1 without one.
        truth: int64 (M,), index into the annotations.
    """

    detection_image: NDArray[np.int64]
    detection_class: NDArray[np.int64]
    score: NDArray[np.float64]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    partner: NDArray[np.int64]
    detection: NDArray[np.int64]
    partner_truth: NDArray[np.int64]
    truth_image: NDArray[np.int64]
    truth_class: NDArray[np.int64]
    truth_score: NDArray[np.float64]
    truth: NDArray[np.int64]


def accumulated(judge: Any) -> Arrays:
    """Evaluate and return COCO's arrays."""
    with redirect_stdout(io.StringIO()):
        judge.evaluate()
        judge.accumulate()
    found: Mapping[str, Any] = judge.eval
    return Arrays(np.asarray(found["precision"]), np.asarray(found["recall"]))


def pairs(dataset: Dataset, kind: str, iou: float, *, by_class: bool = True) -> Pairs:
    """Match detections and annotations at one IoU as COCO does.

    Args:
        dataset: What to compare.
        kind: ``box``, ``mask`` or ``keypoints``.
        iou: The least IoU of a match.
        by_class: Whether only annotations of a detection's class can match it.
    """
    judge = dataset.judge(kind)
    judge.params.iouThrs = np.array([iou])
    judge.params.areaRng = [_EVERY_AREA]
    judge.params.areaRngLbl = ["all"]
    judge.params.maxDets = [_NO_LIMIT]
    judge.params.useCats = by_class
    with redirect_stdout(io.StringIO()):
        judge.evaluate()
    images = {image["id"]: i for i, image in enumerate(dataset.images)}
    classes = {each["id"]: i for i, each in enumerate(dataset.categories)}
    truths = [classes[each["category_id"]] for each in dataset.annotations]
    numbers = {each["id"]: i for i, each in enumerate(dataset.annotations)}
    kinds = [classes[each["category_id"]] for each in dataset.detections]
    detections: list[tuple[Any, ...]] = []
    annotations: list[tuple[Any, ...]] = []
    cells = [cell for cell in judge.evalImgs if cell is not None]
    for cell in sorted(cells, key=lambda cell: (cell["image_id"], cell["category_id"])):
        image = images[cell["image_id"]]
        scores = dict(zip(cell["dtIds"], cell["dtScores"], strict=True))
        for number, score, match, ignored in zip(
            cell["dtIds"], cell["dtScores"], cell["dtMatches"][0], cell["dtIgnore"][0], strict=True
        ):
            i, truth = int(number) - 1, numbers[int(match)] if match else -1
            partner = truths[truth] if match else -1
            found_here = (image, kinds[i], score, bool(match), bool(ignored), partner, i, truth)
            detections.append(found_here)
        for number, match, ignored in zip(
            cell["gtIds"], cell["gtMatches"][0], cell["gtIgnore"], strict=True
        ):
            if not ignored:
                score = scores[int(match)] if match else -1.0
                i = numbers[int(number)]
                annotations.append((image, truths[i], score, i))
    found, given = _columns(detections, 8), _columns(annotations, 4)
    ignored_column = found[4].astype(bool)
    return Pairs(
        detection_image=found[0].astype(np.int64),
        detection_class=found[1].astype(np.int64),
        score=found[2],
        hit=found[3].astype(bool) & ~ignored_column,
        ignored=ignored_column,
        partner=found[5].astype(np.int64),
        detection=found[6].astype(np.int64),
        partner_truth=found[7].astype(np.int64),
        truth_image=given[0].astype(np.int64),
        truth_class=given[1].astype(np.int64),
        truth_score=given[2],
        truth=given[3].astype(np.int64),
    )


def _columns(rows: list[tuple[Any, ...]], n: int) -> NDArray[np.float64]:
    return np.array(rows, np.float64).reshape(len(rows), n).T


def _loaded(coco: Any, content: dict[str, Any]) -> Any:
    loaded = coco()
    loaded.dataset = content
    loaded.createIndex()
    return loaded
