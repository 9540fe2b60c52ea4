"""A picture of each frame with what the model says of it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, SinkError
from pipeline.protocols import Asset
from pipeline.records import Categories, Result
from pipeline.system.files import output_name
from pipeline.system.output_folder import OutputFolder

if TYPE_CHECKING:
    from pipeline.sinks.drawing import Painter


class Overlay:
    """Writes ``<directory>/<asset id>.jpg``; of a video ``<asset id>/<frame>.jpg``.

    Pictures have the frame's size; frames whose longer side is 240 px or less are enlarged by a
    whole number first, so that labels can be read. A class has the same colour in every picture
    and run. Each picture is whole and under its final name as soon as its frame is written.

    Args:
        directory: Where the pictures go.
        quality: Of the JPEG, 1..100.
        masks: Draw instance masks, semantic and panoptic maps.
        boxes: Draw boxes.
        labels: Write the class, the score and, where there is one, the track id.
        opacity: Of masks and maps, 0..1.

    Raises:
        ConfigError: ``quality`` or ``opacity`` is out of range.
    """

    def __init__(
        self,
        directory: str | Path,
        quality: int = 90,
        masks: bool = True,
        boxes: bool = True,
        labels: bool = True,
        opacity: float = 0.45,
    ) -> None:
        problems = []
        if not 1 <= quality <= 100:
            problems.append(f"sink.overlay.quality={quality}: expected a number from 1 to 100")
        if not 0 <= opacity <= 1:
            problems.append(f"sink.overlay.opacity={opacity}: expected a number from 0 to 1")
        if problems:
            raise ConfigError(*problems)
        self.directory = Path(directory)
        self.outputs = (f"{self.directory.name}/",)
        self.quality = quality
        self.masks, self.boxes, self.labels, self.opacity = masks, boxes, labels, opacity
        self._skeleton: tuple[tuple[int, int], ...] = ()
        self._painter: Painter | None = None
        # from the run directory on, so that `overlay` itself is no link that leads out of it
        self._folder = OutputFolder(self.directory.parent)

    def check(self, categories: Categories) -> None:
        """Learn which keypoints to join."""
        self._skeleton = categories.skeleton

    def __enter__(self) -> Overlay:
        """Load what draws; supervision is not imported before."""
        from pipeline.sinks.drawing import Painter

        self._painter = Painter(
            self.masks, self.boxes, self.labels, opacity=self.opacity, skeleton=self._skeleton
        )
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Forget what draws."""
        self._painter = None

    def begin(self, asset: Asset) -> None:
        """Do nothing: each image is written whole."""

    def write(self, result: Result) -> None:
        """Draw one frame and write its picture.

        Raises:
            SinkError: The picture is larger than a JPEG can be (65,500 px a side).
        """
        if self._painter is None:
            raise RuntimeError("Overlay.write: enter the sink first")
        frame = result.frame
        import cv2  # a tenth of a second that most commands do not need

        picture = self._painter.draw(frame.image, result.predictions)
        try:
            done, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        except cv2.error:
            done = False
        if not done:
            raise SinkError(
                f"'{frame.asset_id}': a picture of {frame.size[1]} x {frame.size[0]} px cannot be "
                "written as JPEG (65,500 px a side at most); leave sink=overlay out for it",
                asset_id=frame.asset_id,
                step="overlay",
            )
        index = None if frame.time_s is None else frame.index
        self._folder.write(self._name(frame.asset_id, ".jpg", index), jpeg.data)

    def flush(self, asset: Asset) -> None:
        """Do nothing: the pictures were written whole, frame by frame."""

    def sync(self) -> None:
        """Make the pictures' names durable."""
        self._folder.sync()

    def discard(self, asset: Asset) -> None:
        """Remove the asset's pictures, those of an earlier run too."""
        self._folder.remove(self._name(asset.id, ".jpg" if asset.is_still else ""))

    def _name(self, asset_id: str, suffix: str, frame: int | None = None) -> str:
        return f"{self.directory.name}/{output_name(asset_id, suffix, frame)}"
