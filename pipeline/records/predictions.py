"""A model's predictions for one frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.masks import InstanceMasks

Index = int | slice | NDArray[Any] | list[int] | list[bool]


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a panoptic map.

    Attributes:
        id: The value of the segment's pixels in ``Predictions.panoptic_seg``, from 1.
        class_id: Thing class id, or stuff class id if ``is_thing`` is false.
        class_name: Name of the class.
        is_thing: Whether the segment is an instance rather than stuff.
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
_OPTIONAL = ("masks", "keypoints", "track_ids", "sem_seg", "panoptic_seg")
_PER_FRAME = (
    "image_size", "class_names", "sem_seg", "panoptic_seg", "segments", "stuff_names",
)  # fmt: skip
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
    """A model's predictions for one frame, in host memory and in pixels of the frame.

    Attributes:
        image_size: ``(height, width)`` of the frame in pixels.
        class_names: Names by class id; one tuple shared by all predictions of a model.
        boxes: float32 ``(N, 4)``, ``x1, y1, x2, y2`` in pixels.
        scores: float32 ``(N,)`` in [0, 1].
        classes: int64 ``(N,)``, indices into ``class_names``.
        masks: The N instance masks, or ``None``.
        keypoints: float32 ``(N, K, 3)``: x and y in pixels, score; or ``None``.
        track_ids: int64 ``(N,)``, or ``None``.
        sem_seg: int32 ``(H, W)`` of stuff class ids, or ``None``.
        panoptic_seg: int32 ``(H, W)`` of segment ids, 0 for none; or ``None``.
        segments: The segments in ``panoptic_seg``.
        stuff_names: Names of the classes in ``sem_seg``, by class id.
        extra: Custom per-instance columns by name; their first dimension is N.

    Raises:
        ValueError: A field has the wrong shape; the message says which shape was expected.
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

    def __repr__(self) -> str:
        """Return a summary; the arrays themselves would fill pages."""
        given = [*self.fields, *self.extra]
        also = f", with {', '.join(given)}" if given else ""
        return f"Predictions({len(self)} instances, image_size={self.image_size}{also})"

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the optional fields that are present, without the extra columns."""
        return tuple(name for name in _OPTIONAL if getattr(self, name) is not None)

    def __len__(self) -> int:
        """Return the number of instances."""
        return int(self.scores.shape[0])

    def __getitem__(self, index: Index) -> Predictions:
        """Select instances by position, slice, index list or boolean mask.

        The semantic and panoptic maps are unchanged.
        """
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
        """Return a copy with some fields changed. The copy is checked again."""
        return replace(self, **changes)

    @property
    def area_px(self) -> NDArray[np.float64]:
        """float64 ``(N,)``: pixels of each mask, or of each box if there are no masks."""
        if self.masks is not None:
            return self.masks.area_px.astype(np.float64)
        sides = np.maximum(self.boxes[:, 2:].astype(np.float64) - self.boxes[:, :2], 0)
        return np.asarray(sides[:, 0] * sides[:, 1])

    @classmethod
    def empty(cls, image_size: tuple[int, int], class_names: tuple[str, ...] = ()) -> Predictions:
        """Return predictions without instances for a frame of this ``(height, width)``."""
        return cls(
            image_size=image_size,
            class_names=class_names,
            boxes=np.zeros((0, 4), np.float32),
            scores=np.zeros(0, np.float32),
            classes=np.zeros(0, np.int64),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Predictions]) -> Predictions:
        """Return the instances of several predictions for the same frame, in order.

        Optional columns (masks, keypoints, track ids, extra columns) must be present in all parts
        or in none. Semantic and panoptic maps cover the frame, not instances, so they cannot be
        joined: they must be equal in all parts, or absent from all.

        Raises:
            ValueError: There are no parts, or the parts disagree on a field, which the message
                names.
        """
        if not parts:
            raise ValueError("Predictions.concatenate: expected at least one part")
        first = parts[0]
        for name in _PER_FRAME:
            if not all(_equal(getattr(part, name), getattr(first, name)) for part in parts):
                raise ValueError(f"Predictions.concatenate: {name} differs between the parts")
        joined: dict[str, Any] = {}
        for name in _PER_INSTANCE:
            joined[name] = _joined(name, [getattr(part, name) for part in parts])
        for part in parts:
            if part.extra.keys() != first.extra.keys():
                names = sorted(part.extra.keys() ^ first.extra.keys())
                raise ValueError(f"Predictions.concatenate: not all parts have extra {names}")
        joined["extra"] = {
            name: _joined(f"extra[{name!r}]", [part.extra[name] for part in parts])
            for name in first.extra
        }
        masks = [part.masks for part in parts if part.masks is not None]
        if len(masks) not in (0, len(parts)):
            raise ValueError("Predictions.concatenate: not all parts have masks")
        joined["masks"] = InstanceMasks.concatenate(masks) if masks else None
        return replace(first, **joined)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    return bool(type(a) is type(b) and a == b)


def _joined(name: str, columns: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    """Concatenate one column of several predictions; ``None`` if it is absent from all."""
    present = [column for column in columns if column is not None]
    if len(present) not in (0, len(columns)):
        raise ValueError(f"Predictions.concatenate: not all parts have {name}")
    if len({(column.dtype, column.shape[1:]) for column in present}) > 1:
        kinds = sorted({f"{column.dtype} {('N', *column.shape[1:])}" for column in present})
        raise ValueError(
            f"Predictions.concatenate: {name} has different dtypes or shapes: {' and '.join(kinds)}"
        )
    return np.concatenate(present) if present else None


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        want is None or got == want for got, want in zip(shape, expected, strict=True)
    )
