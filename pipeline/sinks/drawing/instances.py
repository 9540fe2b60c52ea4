"""Draws masks, boxes and keypoints of instances."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.masks import InstanceMasks
from pipeline.sinks.drawing.colors import Color
from pipeline.sinks.drawing.scale import Image, Scale, enlarged

_MIN_KEYPOINT_SCORE = 0.05  # Detectron2's Visualizer draws none below
_LIMB_SHARE, _JOINT_SHARE = 1 / 110, 1 / 75  # thickness and radius per length of the person
_LIMB_COLOR, _JOINT_COLOR, _WHITE = (255, 220, 0), (60, 60, 255), (255, 255, 255)
_FAR_PX = 1e6  # OpenCV fails on coordinates that do not fit into 32 bits


def draw_masks(
    scene: Image, masks: InstanceMasks, colors: Sequence[Color], scale: Scale, opacity: float
) -> None:
    """Blend masks into the scene, each with an opaque outline along the inside of its edge.

    Masks are drawn one by one in their boxes, so memory does not grow with their number; small
    ones are drawn on top of large ones.

    Args:
        scene: uint8 ``(f * H, f * W, 3)``, BGR; changed in place.
        masks: N masks in pixels of the frame.
        colors: The color of each mask.
        scale: Sizes.
        opacity: Opacity of the masks, in [0, 1].
    """
    factor = scale.factor
    for i in np.argsort(-masks.area_px, kind="stable").tolist():
        crop, (x, y) = masks.crop(i)
        if not crop.size:
            continue
        # crops are stored column by column, and OpenCV transposes them faster than NumPy
        columns = enlarged(crop.T.view(np.uint8), factor)
        mask = np.asarray(cv2.transpose(columns), np.uint8)
        height, width = mask.shape
        part = scene[y * factor : y * factor + height, x * factor : x * factor + width]
        flat = np.empty((height, width, 3), np.uint8)
        flat[:] = np.full((width, 3), colors[i], np.uint8)  # faster than by pixel
        cv2.copyTo(cv2.addWeighted(flat, opacity, part, 1 - opacity, 0), mask, part)
        outline = min(scale.outline, max(1, min(height, width) // 8))
        cv2.copyTo(flat, _edge(mask, outline), part)


def draw_boxes(
    scene: Image, corners: NDArray[np.float32], colors: Sequence[Color], scale: Scale
) -> None:
    """Draw boxes, small ones thinner and on top of large ones.

    Args:
        scene: uint8 ``(H, W, 3)``, BGR; changed in place.
        corners: float32 ``(N, 4)``: x1, y1, x2, y2 in pixels of the scene.
        colors: The color of each box.
        scale: Sizes.
    """
    sides = corners[:, 2:] - corners[:, :2]
    thin = (sides.min(axis=1) < 10 * scale.line).tolist()
    rows = corners.astype(int).tolist()
    for i in np.argsort(-sides.prod(axis=1), kind="stable").tolist():
        x1, y1, x2, y2 = rows[i]
        line = max(1, scale.line // 3) if thin[i] else scale.line
        cv2.rectangle(scene, (x1, y1), (x2, y2), colors[i], line)


def draw_keypoints(
    scene: Image,
    keypoints: NDArray[np.float32],
    corners: NDArray[np.float32],
    skeleton: Sequence[tuple[int, int]],
    scale: Scale,
    colors: Sequence[Color] | None = None,
) -> None:
    """Draw keypoints and the limbs between them, sized by the person's box.

    Args:
        scene: uint8 ``(f * H, f * W, 3)``, BGR; changed in place.
        keypoints: float32 ``(N, K, 3)``: x and y in pixels of the frame, score.
        corners: float32 ``(N, 4)``: the persons' boxes in pixels of the scene.
        skeleton: Pairs of keypoints to join.
        scale: Sizes.
        colors: The color of each person's limbs; by default the same for all.
    """
    finite = np.isfinite(keypoints)
    shown = (finite.all(axis=2) & (keypoints[..., 2] > _MIN_KEYPOINT_SCORE)).tolist()
    points = np.clip(np.where(finite, keypoints, 0)[..., :2], -_FAR_PX, _FAR_PX)
    rows = (points * scale.factor).astype(int).tolist()
    sides = (corners[:, 2:] - corners[:, :2]).max(axis=1)
    for i in np.argsort(sides, kind="stable").tolist():  # near persons on top of far ones
        side = float(sides[i])
        limb = max(1, min(round(side * _LIMB_SHARE), 3 * scale.line))
        joint = max(1, min(round(side * _JOINT_SHARE), 4 * scale.line))
        limb_color, joint_color = (colors[i], _WHITE) if colors else (_LIMB_COLOR, _JOINT_COLOR)
        for a, b in skeleton:
            if shown[i][a] and shown[i][b]:
                cv2.line(scene, rows[i][a], rows[i][b], limb_color, limb, cv2.LINE_AA)
        for point, is_shown in zip(rows[i], shown[i], strict=True):
            if is_shown:
                cv2.circle(scene, point, joint, joint_color, cv2.FILLED, cv2.LINE_AA)


def _edge(mask: Image, thickness: int) -> Image:
    """Return the pixels of a mask that are near its edge."""
    kernel = np.ones((2 * thickness + 1,) * 2, np.uint8)
    inner = cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(cv2.subtract(mask, inner), np.uint8)
