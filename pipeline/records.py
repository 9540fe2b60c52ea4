"""The records that flow: frozen dataclasses of NumPy arrays, checked once at construction.

Shapes: ``N`` instances, ``K`` keypoints, ``H`` and ``W`` the frame's height and width in pixels.
Boxes are ``x1, y1, x2, y2`` in pixels of the original frame (Detectron2's ``XYXY_ABS``); sizes are
``(height, width)``; images are BGR. Field names are Detectron2's without the ``pred_``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.masks import InstanceMasks

Index = int | slice | NDArray[Any] | list[int] | list[bool]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One decoded picture of an asset.

    Attributes:
        image: uint8 ``(H, W, 3)``, BGR.
        asset_id: The asset it comes from.
        index: 0-based position within the asset.
        pts: Presentation timestamp in units of ``time_base``; ``None`` for a still image.
        time_base: Seconds per unit of ``pts``.
        time_s: Seconds from the start of a video, ``pts * time_base``; ``None`` for a still image.
    """

    image: NDArray[np.uint8]
    asset_id: str
    index: int = 0
    pts: int | None = None
    time_base: Fraction | None = None
    time_s: float | None = None

    def __post_init__(self) -> None:
        if (self.pts is None) != (self.time_base is None):
            raise ValueError("Frame: pts and time_base belong together; give both or neither")
        if self.pts is not None and self.time_base is not None:
            object.__setattr__(self, "time_s", float(self.pts * self.time_base))
        image = self.image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(
                f"Frame.image: expected non-empty uint8 (H, W, 3), got {image.dtype} {image.shape}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True, slots=True)
class Categories:
    """What a model can tell apart: names and the data set's own ids.

    Attributes:
        thing_names: Names of the instance classes, by class id.
        thing_ids: Their ids in the data set (1..90 for COCO), by class id.
        stuff_names: Names of the semantic classes, by class id.
        stuff_ids: Their ids in the data set.
        keypoint_names: Names of the K keypoints.
        skeleton: Pairs of 0-based keypoint indices to join with a line.
    """

    thing_names: tuple[str, ...] = ()
    thing_ids: tuple[int, ...] = ()
    stuff_names: tuple[str, ...] = ()
    stuff_ids: tuple[int, ...] = ()
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in (*self.thing_names, *self.stuff_names, *self.keypoint_names):
            if problem := name_problem(name):
                raise ValueError(f"the name {name!r:.60} {problem}")
        for names, ids in (("thing_names", "thing_ids"), ("stuff_names", "stuff_ids")):
            n = len(getattr(self, names))
            if not getattr(self, ids):  # a data set of one's own: ids are class id + 1
                object.__setattr__(self, ids, tuple(range(1, n + 1)))
            if len(getattr(self, ids)) != n:
                raise ValueError(f"Categories.{ids}: expected {n} ids, one per name")
            if any(type(i) is not int or not 0 <= i < 1 << 63 for i in getattr(self, ids)):
                raise ValueError(f"Categories.{ids}: an id is not a whole number of at least 0")
            if len(set(getattr(self, ids))) != n:
                raise ValueError(f"Categories.{ids}: duplicate id")
        n = len(self.keypoint_names)  # a skeleton may come without names
        if not all(0 <= point < (n or 1 << 31) for pair in self.skeleton for point in pair):
            raise ValueError(f"the skeleton joins a keypoint that is none of the {n}")


def name_problem(name: object) -> str | None:
    """Say why a text cannot name a class or a keypoint; ``None`` if it can.

    Every sink must be able to write it on one line, as UTF-8.
    """
    if not isinstance(name, str):
        return f"is not text but a {type(name).__name__}"
    if not name.strip():
        return "is empty"
    for character in name:
        category = unicodedata.category(character)
        if category in ("Cc", "Zl", "Zp"):
            return f"has a control character, U+{ord(character):04X}"
        if category == "Cs":
            return f"has half of a surrogate pair, U+{ord(character):04X}"
    return None


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a panoptic map.

    Attributes:
        id: Its value in ``Predictions.panoptic_seg``, from 1.
        class_id: Thing class id, or stuff class id where ``is_thing`` is false.
        class_name: That class's name.
        is_thing: Whether it is an instance rather than stuff.
        score: The instance's score in [0, 1]; ``None`` for stuff.
        area_px: Number of pixels.
    """

    id: int
    class_id: int
    class_name: str
    is_thing: bool
    score: float | None
    area_px: int


_PER_INSTANCE = ("boxes", "scores", "classes", "keypoints", "track_ids")
_DTYPES: dict[str, Any] = {
    "boxes": np.float32,
    "scores": np.float32,
    "classes": np.int64,
    "keypoints": np.float32,
    "track_ids": np.int64,
    "sem_seg": np.int32,
    "panoptic_seg": np.int32,
}


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What a model says of one frame, on the host, in the frame's own pixels.

    Attributes:
        image_size: ``(height, width)`` of the frame in pixels.
        class_names: Names by class id; one shared tuple a model.
        boxes: float32 ``(N, 4)``, ``x1, y1, x2, y2`` in pixels.
        scores: float32 ``(N,)`` in [0, 1].
        classes: int64 ``(N,)``, indices into ``class_names``.
        masks: The N instance masks, or ``None``.
        keypoints: float32 ``(N, K, 3)``: x and y in pixels, score; or ``None``.
        track_ids: int64 ``(N,)``, or ``None``.
        sem_seg: int32 ``(H, W)`` of stuff class ids, or ``None``.
        panoptic_seg: int32 ``(H, W)`` of segment ids, 0 for none; or ``None``.
        segments: What the ids in ``panoptic_seg`` are.
        stuff_names: Names of the classes in ``sem_seg``, by class id.
        extra: A user's own per-instance columns; first dimension N.

    Raises:
        ValueError: A field's shape does not fit; says what was expected.
    """

    image_size: tuple[int, int]
    class_names: tuple[str, ...]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    masks: InstanceMasks | None = None
    keypoints: NDArray[np.float32] | None = None
    track_ids: NDArray[np.int64] | None = None
    sem_seg: NDArray[np.int32] | None = None
    panoptic_seg: NDArray[np.int32] | None = None
    segments: tuple[Segment, ...] = ()
    stuff_names: tuple[str, ...] = ()
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, dtype in _DTYPES.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, np.asarray(value, dtype))
        n = self.scores.shape[0] if self.scores.ndim else -1
        height, width = self.image_size
        expected: dict[str, tuple[int | None, ...]] = {
            "boxes": (n, 4),
            "scores": (n,),
            "classes": (n,),
            "keypoints": (n, None, 3),
            "track_ids": (n,),
            "sem_seg": (height, width),
            "panoptic_seg": (height, width),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and not _fits(value.shape, shape):
                raise ValueError(f"Predictions.{name}: expected shape {shape}, got {value.shape}")
        if n and not 0 <= self.classes.min() <= self.classes.max() < len(self.class_names):
            raise ValueError(
                f"Predictions.classes: expected ids in 0..{len(self.class_names) - 1}, "
                f"got {self.classes.min()}..{self.classes.max()}"
            )
        if self.masks is not None and (len(self.masks), self.masks.size) != (n, (height, width)):
            raise ValueError(
                f"Predictions.masks: expected {n} masks of size {(height, width)}, "
                f"got {len(self.masks)} of {self.masks.size}"
            )
        for name, column in self.extra.items():
            if column.shape[:1] != (n,):
                raise ValueError(
                    f"Predictions.extra[{name!r}]: expected first dimension {n}, got {column.shape}"
                )

    def __len__(self) -> int:
        """Return the number of instances."""
        return int(self.scores.shape[0])

    def __getitem__(self, index: Index) -> Predictions:
        """Select instances by position, slice, index list or boolean mask; maps are kept."""
        if isinstance(index, (int, np.integer)):
            index = [int(index)]
        elif not isinstance(index, slice):
            index = np.asarray(index) if len(index) else np.zeros(0, np.int64)
        chosen: dict[str, Any] = {}
        for name in _PER_INSTANCE:
            value = getattr(self, name)
            chosen[name] = None if value is None else value[index]
        chosen["masks"] = None if self.masks is None else self.masks[index]
        chosen["extra"] = {name: column[index] for name, column in self.extra.items()}
        return replace(self, **chosen)

    def replace(self, **changes: Any) -> Predictions:
        """Return a copy with some fields changed; checked again."""
        return replace(self, **changes)

    @property
    def area_px(self) -> NDArray[np.float64]:
        """float64 ``(N,)``: pixels of each mask, or of each box where there are no masks."""
        if self.masks is not None:
            return self.masks.area_px.astype(np.float64)
        sides = np.maximum(self.boxes[:, 2:].astype(np.float64) - self.boxes[:, :2], 0)
        return np.asarray(sides[:, 0] * sides[:, 1])

    @classmethod
    def empty(cls, image_size: tuple[int, int], class_names: tuple[str, ...] = ()) -> Predictions:
        """Return predictions of nothing on a frame of this ``(height, width)``."""
        return cls(
            image_size=image_size,
            class_names=class_names,
            boxes=np.zeros((0, 4), np.float32),
            scores=np.zeros(0, np.float32),
            classes=np.zeros(0, np.int64),
        )


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        want is None or got == want for got, want in zip(shape, expected, strict=True)
    )


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A frame and what the model says of it: what stages and sinks see."""

    frame: Frame
    predictions: Predictions

    def replace(self, predictions: Predictions) -> Result:
        """Return a result for the same frame with other predictions."""
        return Result(self.frame, predictions)
