"""A substitute for a model: no weights, no torch, and the same predictions for the same frame."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.masks import InstanceMasks
from pipeline.protocols import Model
from pipeline.records import Categories, Frame, Predictions
from pipeline.validation import check_flag, check_whole


class FakeRunnable:
    """Generates instances from each frame's pixels, for dry runs and tests.

    The predictions depend only on the frame's pixels and size: ``n_instances`` boxes with whole
    pixels as corners, whose height and width are a quarter to half of the frame's; scores from 1
    down to 0.5; random classes; and optionally masks, the ellipses inside the boxes.

    Attributes:
        class_names: Names by class id.
        device: The device option; has no effect.
        fields: Names of the optional fields of its predictions.

    Args:
        model: Provides the class names. It is never loaded.
        device: Stored only.
        class_names: Names by class id, instead of the model's. Without either there is one class,
            ``object``.
        n_instances: Number of instances per frame.
        masks: Whether instances have masks.
        min_score: Instances with a lower score are skipped, as by a model.
        classes: Instances of classes with other names are skipped.
        max_instances: Of the remaining instances, only those with the highest scores are kept.
        fail_on: Ids of assets whose frames make ``predict`` raise, alone or in a batch.

    Raises:
        ConfigError: An option is not valid.
    """

    def __init__(
        self,
        model: Model | None = None,
        device: str = "cpu",
        *,
        class_names: Sequence[str] | None = None,
        n_instances: int = 3,
        masks: bool = True,
        min_score: float = 0.0,
        classes: Sequence[str] | None = None,
        max_instances: int | None = None,
        fail_on: Sequence[str] = (),
    ) -> None:
        check_whole("n_instances", n_instances, 0)
        check_flag("masks", masks)
        known = model.categories.thing_names if model else ()
        names = Categories(thing_names=tuple(class_names or known or ("object",)))  # checks them
        self.class_names: tuple[str, ...] = names.thing_names
        self.device = device
        self.n_instances = n_instances
        self.masks = masks
        self.fields: tuple[str, ...] = ("masks",) if masks else ()
        self.min_score, self.classes, self.max_instances = min_score, classes, max_instances
        self.fail_on = frozenset(fail_on)
        self._entered = False

    def __enter__(self) -> FakeRunnable:
        """Allow predictions."""
        self._entered = True
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Refuse predictions."""
        self._entered = False

    def describe(self) -> dict[str, Any]:
        """Return that no model ran on the device, for run.json and the summary."""
        return {"device": self.device, "name": "no model (fake)", "fake": True, "speedups": []}

    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        """Return generated predictions of each frame, in order.

        Raises:
            RuntimeError: It was not entered, or a frame's asset is in ``fail_on``.
        """
        if not self._entered:
            raise RuntimeError(
                "FakeRunnable.predict: not entered. Use `with FakeRunnable() as runnable`."
            )
        for frame in frames:
            if frame.asset_id in self.fail_on:
                raise RuntimeError(f"'{frame.asset_id}' fails because it is in fail_on")
        return [self._filtered(self._generate(frame)) for frame in frames]

    def _filtered(self, predictions: Predictions) -> Predictions:
        if not self.min_score and self.classes is None and self.max_instances is None:
            return predictions
        kept = predictions[predictions.scores >= np.float32(self.min_score)]
        if self.classes is not None:
            is_kept = [name in self.classes for name in self.class_names]
            kept = kept[np.array(is_kept, bool)[kept.classes]]
        return kept[: self.max_instances]  # sorted by score, highest first

    def _generate(self, frame: Frame) -> Predictions:
        n = self.n_instances if self.class_names else 0  # a semantic model has no instances
        height, width = frame.size
        pixels = zlib.crc32(np.ascontiguousarray(frame.image).data)
        rng = np.random.default_rng([pixels, height, width])
        frame_px = np.array([width, height])
        sides = rng.integers(np.maximum(1, frame_px // 4), np.maximum(1, frame_px // 2) + 1, (n, 2))
        corners = rng.integers(0, frame_px - sides + 1)
        masks = None
        if self.masks:
            crops = [_ellipse(h, w) for w, h in sides.tolist()]
            masks = InstanceMasks.from_crops(crops, map(tuple, corners.tolist()), frame.size)
        return Predictions(
            image_size=frame.size,
            class_names=self.class_names,
            boxes=np.hstack([corners, corners + sides]).astype(np.float32),
            scores=-np.sort(-rng.uniform(0.5, 1, n)).astype(np.float32),
            classes=rng.integers(0, len(self.class_names), n),
            masks=masks,
        )


def _ellipse(height: int, width: int) -> NDArray[np.bool_]:
    """Return the ellipse inside a box: bool ``(height, width)``."""
    y = (np.arange(height)[:, None] + 0.5) / height * 2 - 1
    x = (np.arange(width) + 0.5) / width * 2 - 1
    return np.asarray(y * y + x * x <= 1)
