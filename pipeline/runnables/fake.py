"""A stand-in for a model: no weights, no torch, and always the same answer to the same frame."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.masks import InstanceMasks
from pipeline.protocols import Model
from pipeline.records import Categories, Frame, Predictions


class FakeRunnable:
    """Makes up instances from each frame's pixels, for dry runs and for tests.

    The predictions of a frame are a function of its pixels and size alone: ``n_instances`` boxes
    on whole pixels inside the frame, each a quarter to half of it in height and in width, scores
    from 1 down to 0.5, classes at random and, if wanted, the ellipse in each box as its mask.

    Attributes:
        class_names: Names by class id.
        device: As given; nothing is put there.

    Args:
        model: Gives the class names; otherwise unused, and never loaded.
        device: Stored only.
        class_names: Names by class id, rather than the model's. Without either there is one
            class, ``object``.
        n_instances: Instances in each frame.
        masks: Whether they have masks.
        min_score: Leaves out instances below it, as a model does that was asked for less.
        classes: Leaves out instances of classes of other names.
        max_instances: Leaves out all but the best of what is left.
        fail_on: Ids of assets whose frames make ``predict`` raise, alone or in a batch.

    Raises:
        ConfigError: ``n_instances`` is negative.
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
        if n_instances < 0:
            raise ConfigError(f"n_instances: expected at least 0, got {n_instances}")
        known = model.categories.thing_names if model else ()
        names = Categories(thing_names=tuple(class_names or known or ("object",)))  # checks them
        self.class_names: tuple[str, ...] = names.thing_names
        self.device = device
        self.n_instances = n_instances
        self.masks = masks
        self.min_score, self.classes, self.max_instances = min_score, classes, max_instances
        self.fail_on = frozenset(fail_on)
        self._entered = False

    def __enter__(self) -> FakeRunnable:
        """Start to answer."""
        self._entered = True
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop to answer."""
        self._entered = False

    def describe(self) -> dict[str, Any]:
        """Return the device, and that there is no model."""
        return {"device": self.device, "fake": True}

    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        """Return made-up predictions of each frame, in order.

        Raises:
            RuntimeError: It was not entered, or a frame's asset is one of ``fail_on``.
        """
        if not self._entered:
            raise RuntimeError("FakeRunnable.predict: enter it first, as in `with FakeRunnable()`")
        for frame in frames:
            if frame.asset_id in self.fail_on:
                raise RuntimeError(f"'{frame.asset_id}' fails, as fail_on says")
        return [self._wanted(self._invent(frame)) for frame in frames]

    def _wanted(self, predictions: Predictions) -> Predictions:
        if not self.min_score and self.classes is None and self.max_instances is None:
            return predictions
        kept = predictions[predictions.scores >= np.float32(self.min_score)]
        if self.classes is not None:
            wanted = [name in self.classes for name in self.class_names]
            kept = kept[np.array(wanted, bool)[kept.classes]]
        return kept[: self.max_instances]  # they are sorted, the best first

    def _invent(self, frame: Frame) -> Predictions:
        n = self.n_instances if self.class_names else 0  # a semantic model finds no instances
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
    """Return the ellipse that fills a box: bool ``(height, width)``."""
    y = (np.arange(height)[:, None] + 0.5) / height * 2 - 1
    x = (np.arange(width) + 0.5) / width * 2 - 1
    return np.asarray(y * y + x * x <= 1)
