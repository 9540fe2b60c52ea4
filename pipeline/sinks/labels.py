"""Labels on a picture: what they say, and where they hide least."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import supervision as sv
from numpy.typing import NDArray

from pipeline.records import Predictions

_MAP_LABEL_SHARE = 0.005  # segments of a map below this share of the picture get no label
_NAME_LENGTH = 32
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_AT_ONCE = 1 << 18  # pairs of a place and an object that are compared
_CV2_DRAWS_UNICODE = int(cv2.__version__.split(".")[0]) >= 5  # 4 has ASCII only


def draw_labels(
    scene: NDArray[np.uint8],
    corners: NDArray[np.float32],
    p: Predictions,
    factor: int,
    scale: float,
    palettes: tuple[sv.ColorPalette, sv.ColorPalette],
    *,
    maps: bool,
) -> None:
    """Write the instances' labels, and those of a map's segments, into ``scene``.

    Args:
        scene: uint8 ``(H, W, 3)``; changed in place.
        corners: float32 ``(N, 4)``: the boxes in the scene's pixels.
        p: The predictions, in pixels of the frame.
        factor: Scene pixels a frame pixel.
        scale: Of the font, in OpenCV's measure.
        palettes: Colours of the classes, things before stuff, and of text on them.
        maps: Whether to label the segments of a panoptic or semantic map.
    """
    thickness, padding = max(1, round(1.6 * scale)), max(2, round(8 * scale))

    def size(text: str) -> tuple[int, int]:
        width, height = cv2.getTextSize(text, _FONT, scale, thickness)[0]
        return width + 2 * padding, height + 2 * padding

    texts, classes, anchors = _instance_texts(p), p.classes.tolist(), corners.tolist()
    sizes = [size(text) for text in texts]
    for text, class_id, (x, y) in _map_labels(p) if maps else ():
        width, height = size(text)
        # a box without height: a label above it has its middle at x, y
        left, bottom = x * factor - width / 2, y * factor + height / 2
        anchors.append([left, bottom, left, bottom])
        texts.append(text)
        classes.append(class_id)
        sizes.append((width, height))
    if not texts:
        return
    frame_size = (scene.shape[0], scene.shape[1])
    spots = place_labels(anchors, sizes, corners, frame_size).astype(int).tolist()
    # supervision's LabelAnnotator draws the same, in four times the time
    fills, inks = ([colour.as_bgr() for colour in palette.colors] for palette in palettes)
    for text, class_id, (left, top, right, bottom) in zip(texts, classes, spots, strict=True):
        fill, ink = fills[class_id % len(fills)], inks[class_id % len(inks)]
        cv2.rectangle(scene, (left, top), (right, bottom), fill, cv2.FILLED)
        start = (left + padding, bottom - padding)
        cv2.putText(scene, text, start, _FONT, scale, ink, thickness, cv2.LINE_AA)


def place_labels(
    anchors: Sequence[Sequence[float]],
    sizes: Sequence[tuple[int, int]],
    objects: NDArray[np.float32],
    frame_size: tuple[int, int],
) -> NDArray[np.float64]:
    """Find a place for each label, one after the other, inside the frame.

    Above its box, below, beside or in it: where it hides the least share of objects (so never a
    small one for the sake of a large one) and of the labels placed before.

    Args:
        anchors: x1, y1, x2, y2 of what each label belongs to.
        sizes: Width and height of each label.
        objects: float32 ``(N, 4)``: boxes of what should stay visible.
        frame_size: ``(height, width)``; all in pixels.

    Returns:
        float64 ``(labels, 4)``: x1, y1, x2, y2 in whole pixels.
    """
    placed = np.zeros((len(anchors), 4))
    some = max(1, _AT_ONCE // (8 * max(1, len(objects))))
    for first in range(0, len(anchors), some):
        chunk = slice(first, first + some)
        spots, cost = _spots(np.array(anchors[chunk]), np.array(sizes[chunk]), objects, frame_size)
        for i, (eight, costs) in enumerate(zip(spots, cost, strict=True), first):
            covered = _overlap(eight, placed[:i]) / (sizes[i][0] * sizes[i][1])
            placed[i] = eight[int((costs + 2 * covered.sum(axis=1)).argmin())]
    return placed


def _spots(
    anchors: NDArray[np.float64],
    sizes: NDArray[np.int64],
    objects: NDArray[np.float32],
    frame_size: tuple[int, int],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return eight places for each label, ``(N, 8, 4)``, and what they cost alone, ``(N, 8)``."""
    (x1, y1, x2, y2), (w, h) = anchors.T, sizes.T
    corners = np.array(
        [(x1, y1 - h), (x1, y2), (x2 - w, y1 - h), (x2 - w, y2), (x2, y1), (x1 - w, y1),
         (x1, y1), (x2 - w, y2 - h)]  # above, below, at the right end, beside, inside
    ).transpose(2, 0, 1)  # fmt: skip
    room = np.maximum(np.array(frame_size[::-1]) - sizes, 0)[:, None]
    low = np.clip(np.round(corners), 0, room)
    spots = np.concatenate([low, low + sizes[:, None]], axis=2)
    hidden = _overlap(spots.reshape(-1, 4), objects) / np.maximum(_area(objects), 1)
    return spots, hidden.sum(axis=1).reshape(-1, 8) + 0.02 * np.arange(8)


def label_text(name: str, class_id: int, score: float | None, track_id: int | None) -> str:
    """Return ``#3 name 0.93``; without what is ``None``.

    Long names are cut. OpenCV 5 draws Latin, Cyrillic, Greek and CJK letters; before it only
    ASCII, so accents are left out there, and a name of other letters becomes ``class 7``.
    """
    # half of a surrogate pair, in the names of a custom runnable, would end the process
    name = " ".join(name.encode(errors="replace").decode().split())
    if not (name.isascii() or _CV2_DRAWS_UNICODE):
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().strip()
        name = plain or f"class {class_id}"
    if len(name) > _NAME_LENGTH:
        name = name[: _NAME_LENGTH - 2] + ".."
    track = "" if track_id is None else f"#{track_id} "
    return f"{track}{name}" + ("" if score is None else f" {score:.2f}")


def _instance_texts(p: Predictions) -> list[str]:
    tracks = [None] * len(p) if p.track_ids is None else p.track_ids.tolist()
    rows = zip(p.classes.tolist(), p.scores.tolist(), tracks, strict=True)
    return [label_text(p.class_names[c], c, score, track) for c, score, track in rows]


def _map_labels(p: Predictions) -> Iterator[tuple[str, int, tuple[float, float]]]:
    """Yield text, colour and middle (x, y in frame pixels) of a map's larger segments."""
    n = len(p.class_names)
    if p.panoptic_seg is not None:
        labels = p.panoptic_seg
        entries = [
            (s.id, s.class_name, s.class_id if s.is_thing else n + s.class_id, s.score)
            for s in p.segments
            if p.masks is None or not s.is_thing
        ]
    elif p.sem_seg is not None:
        labels = p.sem_seg
        entries = [(i, s, n + i, None) for i, s in enumerate(p.stuff_names) if s != "things"]
    else:
        return
    step = max(1, max(labels.shape) // 256)  # a place for a label need not be exact
    small = labels[::step, ::step]
    present = set(np.unique(small).tolist())
    for label, name, class_id, score in entries:
        mask = (small == label).astype(np.uint8) if label in present else None
        if mask is None or mask.sum() < _MAP_LABEL_SHARE * mask.size:
            continue
        # of the pixels far from the segment's edge and the frame's, the one nearest its middle
        depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        deep = np.argwhere(depth >= 0.9 * depth.max())
        off_centre = deep - np.argwhere(mask).mean(axis=0)
        y, x = (deep[int((off_centre**2).sum(axis=1).argmin())] * step + 0.5).tolist()
        yield label_text(name, class_id, score, None), class_id, (x, y)


def _area(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), np.float64)


def _overlap(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the area that each of ``a`` shares with each of ``b``."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.asarray(np.prod(np.maximum(high - low, 0), axis=2), np.float64)
