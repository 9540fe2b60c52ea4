"""Helpers for tests of stages and sinks: custom records, and a fake model.

```python
from pipeline.testing import make_result
from plant.stages import NotAtEdge


def test_drops_what_touches_the_edge():
    result = make_result(boxes=[[0, 10, 20, 30], [10, 10, 20, 30]])
    assert len(NotAtEdge()(result).predictions) == 1
```
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pipeline.masks import InstanceMasks
from pipeline.records import Frame, Predictions, Result
from pipeline.runnables.fake import FakeRunnable

__all__ = ["FakeRunnable", "make_frame", "make_predictions", "make_result"]


def make_frame(
    height: int = 48,
    width: int = 64,
    *,
    asset_id: str = "a.jpg",
    index: int = 0,
    time_s: float | None = None,
    seed: int = 0,
) -> Frame:
    """Make a frame of noise. Equal arguments give equal pixels.

    Args:
        height: In pixels.
        width: In pixels.
        asset_id: Id of its asset.
        index: 0-based position in the asset.
        time_s: Seconds from the start of a video; ``None`` for a still image.
        seed: Seed of the noise.
    """
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Frame(image, asset_id, index, time_s=time_s)


def make_predictions(
    n: int = 3,
    *,
    class_names: Sequence[str] = ("cat", "dog", "bird"),
    boxes: ArrayLike | None = None,
    scores: ArrayLike | None = None,
    classes: ArrayLike | None = None,
    size: tuple[int, int] = (48, 64),
    masks: bool | InstanceMasks = False,
    keypoints: int = 0,
    seed: int = 0,
    **fields: Any,
) -> Predictions:
    """Make predictions. Set only the fields that the test is about.

    Args:
        n: Number of instances; by default the length of ``boxes``, ``scores`` or ``classes``.
        class_names: Names by class id.
        boxes: ``(N, 4)``, ``x1, y1, x2, y2`` in pixels. By default random, on whole pixels
            inside the frame.
        scores: ``(N,)`` in [0, 1]; by default evenly spaced from 0.9 down to 0.1.
        classes: ``(N,)`` class ids; by default 0, 1, 2 ... repeatedly.
        size: ``(height, width)`` of the frame in pixels.
        masks: The masks; True for masks that fill their boxes, rounded to whole pixels.
        keypoints: Number of keypoints per instance, at random positions in its box.
        seed: Seed of the random values.
        **fields: Other fields of ``Predictions``: ``track_ids``, ``sem_seg``, ``extra`` ...
    """
    rng = np.random.default_rng(seed)
    n = next((len(np.asarray(c)) for c in (boxes, scores, classes) if c is not None), n)
    frame_px = np.array([size[1], size[0]])
    if boxes is None:
        sides = rng.integers(1, np.maximum(1, frame_px // 2) + 1, (n, 2))
        corners = rng.integers(0, frame_px - sides + 1)
        boxes = np.hstack([corners, corners + sides])
    xyxy = np.asarray(boxes, np.float32).reshape(-1, 4)  # an empty list too
    if masks is True:
        whole = np.clip(np.rint(xyxy), 0, np.tile(frame_px, 2)).astype(int).tolist()
        crops = [np.ones((y2 - y1, x2 - x1), bool) for x1, y1, x2, y2 in whole]
        masks = InstanceMasks.from_crops(crops, [(x1, y1) for x1, y1, _, _ in whole], size)
    if keypoints:
        places = rng.uniform(xyxy[:, None, :2], xyxy[:, None, 2:], (len(xyxy), keypoints, 2))
        fields["keypoints"] = np.dstack([places, rng.uniform(0, 1, places.shape[:2])])
    return Predictions(
        image_size=size,
        class_names=tuple(class_names),
        boxes=xyxy,
        scores=np.asarray(np.linspace(0.9, 0.1, n) if scores is None else scores, np.float32),
        classes=np.asarray(np.arange(n) % len(class_names) if classes is None else classes, int),
        masks=None if masks is False else masks,
        **fields,
    )


def make_result(
    n: int = 3,
    *,
    asset_id: str = "a.jpg",
    index: int = 0,
    time_s: float | None = None,
    size: tuple[int, int] = (48, 64),
    seed: int = 0,
    **predictions: Any,
) -> Result:
    """Make a frame and predictions for it.

    Args:
        n: Number of instances.
        asset_id: The argument of ``make_frame``.
        index: The argument of ``make_frame``.
        time_s: The argument of ``make_frame``.
        size: ``(height, width)`` of the frame in pixels.
        seed: Seed of the random values.
        **predictions: As for ``make_predictions``: ``scores``, ``class_names``, ``masks`` ...
    """
    frame = make_frame(*size, asset_id=asset_id, index=index, time_s=time_s, seed=seed)
    return Result(frame, make_predictions(n, size=size, seed=seed, **predictions))
