"""Predictions from Python: a model and stages, called with images.

```python
from pipeline import Predictor

with Predictor("shapes") as predictor:
    predictions = predictor("scene.jpg")
```
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import Pipeline
from pipeline.engine.pushdown import leading_limits
from pipeline.errors import AssetError, PipelineError
from pipeline.model_names import check_names, find_model
from pipeline.protocols import Asset, Checkable, Model, Runnable, Stage, Warns
from pipeline.records import Frame, Predictions, Result
from pipeline.runnables.detectron2 import Detectron2
from pipeline.sources.asset import ImageAsset
from pipeline.stages.min_score import MinScore

Pixels = NDArray[np.uint8]
Image = Pixels | str | os.PathLike[str]

_MIN_SCORE = 0.5  # as in conf/stage/min_score.yaml


class Predictor:
    """A model and stages that are called with images.

    Entering loads the model, leaving frees it. Results are those of ``python run.py`` with the
    same options. Use a predictor from one thread at a time.

    Args:
        model: A name for ``find_model``, or a model.
        device: ``auto`` (cuda:0 if there is one, else cpu), ``cpu``, ``cuda`` or ``cuda:N``.
        stages: Applied to each result, in order; by default ``[MinScore(0.5)]``, as on the command
            line. ``[]`` keeps everything that the model returns.
        **options: Options of ``runnable=detectron2``, such as ``batch_size=8`` or
            ``precision="bf16"``.

    Attributes:
        model: The model.
        runnable: The model on its device.

    Raises:
        ConfigError: The model is unknown, or an option or a stage does not fit.
        StoreError: The stored model cannot be read.
    """

    def __init__(
        self,
        model: str | Model,
        device: str = "auto",
        stages: Iterable[Stage] | None = None,
        **options: Any,
    ) -> None:
        check_names(Detectron2, options, "Predictor")
        self.model = find_model(model) if isinstance(model, str) else model
        self._stages = _named([MinScore(_MIN_SCORE)] if stages is None else stages)
        for stage in self._stages.values():
            if isinstance(stage, Checkable):
                stage.check(self.model.categories)
        unset = {"min_score", "classes", "max_instances"} - options.keys()
        limits = leading_limits(self._stages.values(), unset)
        self.runnable: Runnable = Detectron2(
            **{"model": self.model, "device": device, **limits, **options}
        )
        self._is_loaded = False

    def __enter__(self) -> Predictor:
        """Load the model onto the device.

        Raises:
            ConfigError: The options do not fit the device or the model.
            DeviceError: The device does not exist; the message lists those that do.
            StoreError: The weights are unavailable or do not fit.
        """
        with warnings.catch_warnings():  # Detectron2 uses what torch has deprecated
            warnings.simplefilter("ignore", FutureWarning)
            self.runnable.__enter__()
        self._is_loaded = True
        for part in (self.model, self.runnable):
            for text in part.warnings if isinstance(part, Warns) else ():
                warnings.warn(text, stacklevel=2)
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Free the model."""
        self._is_loaded = False
        self.runnable.__exit__(*exc_info)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the instance classes, by class id."""
        return self.runnable.class_names

    @overload
    def __call__(self, images: Image) -> Predictions | None: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, images: Sequence[Image]
    ) -> list[Predictions | None]: ...
    @overload
    def __call__(self, images: Iterable[Image]) -> Iterator[Predictions | None]: ...
    @overload
    def __call__(self, images: Any, *, return_exceptions: bool) -> Any: ...
    def __call__(self, images: Any, *, return_exceptions: bool = False) -> Any:
        """Return the predictions of one image or of several.

        Args:
            images: One image: a uint8 ``(H, W, 3)`` array in BGR order, or the path of a file. Or a
                list of images, or any other iterable of images, which may be endless. An iterable
                is read a few images ahead, by another thread.
            return_exceptions: Return the error of an image in place of its predictions, instead of
                raising it.

        Returns:
            For one image its predictions; for a list the list of predictions; for another iterable
            an iterator that yields predictions in the order of the images. An image that a stage
            dropped is ``None``.

        Raises:
            DecodeError: A file cannot be read as an image.
            InferenceError: The model fails on an image.
            StageError: A stage raises on an image.
            TypeError: An image is neither an array nor a path.
            ValueError: An array is not uint8 ``(H, W, 3)``.
        """
        if not self._is_loaded:
            raise RuntimeError("the model is not loaded: use `with Predictor(...) as predictor:`")
        is_one = isinstance(images, (np.ndarray, str, bytes, os.PathLike))
        if is_one or not isinstance(images, Iterable):
            (predictions,) = self._predicted([images], return_exceptions)
            return predictions
        predicted = self._predicted(images, return_exceptions)
        return list(predicted) if isinstance(images, Sequence) else predicted

    def draw(self, image: Image, predictions: Predictions) -> Pixels:
        """Draw predictions onto a copy of an image, as ``sink=overlay`` does.

        Args:
            image: An image, as for a call.
            predictions: The predictions for this image.

        Returns:
            uint8 ``(H, W, 3)`` in BGR order; a small image is enlarged by a whole number.

        Raises:
            DecodeError: The file cannot be read as an image.
        """
        from pipeline.sinks.drawing import Painter  # imports slowly

        (frame,) = _asset(image, 0).frames()
        painter = Painter(skeleton=self.model.categories.skeleton)
        return painter.draw(frame.image, predictions)

    def _predicted(self, images: Iterable[Image], return_exceptions: bool) -> Iterator[Any]:
        assets = (_asset(image, number) for number, image in enumerate(images))
        collect = _Collect()
        pipeline = Pipeline(self.runnable, self._stages, {"predictor": collect})
        with closing(pipeline.run(assets)) as outcomes:
            for outcome in outcomes:
                if outcome.error is None:
                    yield None if outcome.n_dropped else collect.written.popleft()
                elif return_exceptions:
                    yield _named_error(outcome.error)
                else:
                    raise _named_error(outcome.error)


@dataclass(slots=True)
class _Array:
    """An image in memory as an asset."""

    id: str
    frame: Frame
    is_still: bool = True

    @property
    def path(self) -> Path:
        return Path(self.id)

    def fingerprint(self) -> str:
        return hashlib.sha256(self.frame.image.tobytes()).hexdigest()

    def frames(self) -> Iterator[Frame]:
        yield self.frame


class _Collect:
    """A sink that keeps the predictions until the outcome of their asset is known."""

    outputs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.written: deque[Predictions] = deque()

    def __enter__(self) -> _Collect:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def begin(self, asset: Asset) -> None:
        pass

    def write(self, result: Result) -> None:
        self.written.append(result.predictions)

    def flush(self, asset: Asset) -> None:
        pass

    def discard(self, asset: Asset) -> None:
        pass


def _asset(image: Any, number: int) -> Asset:
    if isinstance(image, np.ndarray):
        name = f"image {number}"
        return _Array(name, Frame(image, name))
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        return ImageAsset(path, path)
    hint = "; cv2.imread returns None for a file that it cannot read" if image is None else ""
    raise TypeError(
        f"image {number}: expected a BGR uint8 array or a path, got {type(image).__name__}{hint}"
    )


def _named_error(error: PipelineError) -> PipelineError:
    """Return an error with the name of the image in its message."""
    if not isinstance(error, AssetError):
        return error
    named = type(error)(
        f"{error.asset_id}: {error}",
        asset_id=error.asset_id,
        step=error.step,
        attempts=error.attempts,
    )
    named.__cause__ = error
    return named


def _named(stages: Iterable[Stage]) -> dict[str, Stage]:
    """Return the stages by the name of their class, numbered where a class occurs again."""
    named: dict[str, Stage] = {}
    for stage in stages:
        name = getattr(stage, "__name__", type(stage).__name__)
        again = sum(each.partition(" ")[0] == name for each in named)
        named[f"{name} {again + 1}" if again else name] = stage
    return named
