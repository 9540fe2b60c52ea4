"""An image of each frame with its predictions drawn on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.errors import SinkError
from pipeline.records import Categories, Result
from pipeline.sinks.frame_files import FrameFiles
from pipeline.sinks.style import TEMPLATE, MaskStyle, check_colors, parsed_style
from pipeline.validation import check_choice, check_flag, check_number, check_whole

if TYPE_CHECKING:
    from pipeline.sinks.drawing import Painter


class Overlay(FrameFiles):
    """Writes ``<directory>/<asset id>.jpg``; of a video ``<asset id>/<frame>.jpg``.

    Images keep the frame's size, except that those whose longer side is at most 480 px are
    enlarged by a whole number, so that labels can be read. Labels that would cover small objects
    or other labels are moved or omitted, those with low scores first. Each image is written
    atomically as its frame arrives.

    Args:
        directory: Directory of the images.
        min_score: Draw only instances with at least this score, 0 to 1.
        quality: JPEG quality, 1 to 100.
        masks: Draw instance masks, semantic and panoptic maps.
        boxes: Draw boxes.
        labels: Write the class, the score and, if there is one, the track id.
        color: ``class``: the same color for a class in every image and run. ``instance``: one
            color per instance of a frame. ``track``: one per track id; without tracks as ``class``.
        opacity: Opacity of masks and maps, 0 to 1.
        mask_style: ``fill``: an area and its outline; ``outline``; ``halo``: a glow around the
            mask. ``blur`` and ``pixelate`` make instances unrecognizable, in their masks, or in
            their boxes without masks.
        line_scale: Factor of the thickness of lines, 0.1 to 10.
        text_scale: Factor of the size of text, 0.1 to 10.
        label: Text of a label with ``{track}``, ``{name}``, ``{score}`` and ``{class_id}``.
        colors: Colors of some classes by name, such as ``{crack: "#ff0000"}``.

    Raises:
        ConfigError: An option has an invalid value.
    """

    suffix = ".jpg"

    def __init__(
        self,
        directory: str | Path,
        min_score: float = 0.0,
        quality: int = 90,
        masks: bool = True,
        boxes: bool = True,
        labels: bool = True,
        color: Literal["class", "instance", "track"] = "class",
        opacity: float = 0.45,
        mask_style: MaskStyle = "fill",
        line_scale: float = 1.0,
        text_scale: float = 1.0,
        label: str = TEMPLATE,
        colors: Mapping[str, str] | None = None,
    ) -> None:
        check_whole("quality", quality, 1, 100)
        for option, value in (("masks", masks), ("boxes", boxes), ("labels", labels)):
            check_flag(option, value)
        check_choice("color", color, ("class", "instance", "track"))
        check_number("opacity", opacity, 0, 1)
        self.directory = Path(directory)
        super().__init__(self.directory.parent, self.directory.name)
        check_number("min_score", min_score, 0, 1)
        self.min_score = min_score
        self.quality = quality
        self.masks, self.boxes, self.labels = masks, boxes, labels
        self.color: Literal["class", "instance", "track"] = color
        self.opacity = opacity
        self.style = parsed_style(mask_style, line_scale, text_scale, label, colors)
        self._skeleton: tuple[tuple[int, int], ...] = ()
        self._painter: Painter | None = None

    def check(self, categories: Categories) -> None:
        """Store which keypoints to join.

        Raises:
            ConfigError: ``colors`` has a class that the model does not have.
        """
        self._skeleton = categories.skeleton
        check_colors(self.style.colors, (*categories.thing_names, *categories.stuff_names))

    def __enter__(self) -> Overlay:
        """Create the painter; OpenCV is not imported before."""
        from pipeline.sinks.drawing import Painter

        self._painter = Painter(
            self.masks,
            self.boxes,
            self.labels,
            color=self.color,
            opacity=self.opacity,
            skeleton=self._skeleton,
            style=self.style,
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Drop the painter; no file stays open."""
        self._painter = None

    def contents(self, result: Result) -> dict[str, memoryview]:
        """Return a frame's file."""
        return {self.directory.name: self.jpeg(result)}

    def jpeg(self, result: Result) -> memoryview:
        """Return one frame as JPEG, with its detections drawn. Can be called on several threads.

        Raises:
            SinkError: The image is larger than JPEG allows (65,500 px per side).
        """
        if self._painter is None:
            raise RuntimeError("Overlay: enter the sink first")
        frame = result.frame
        import cv2  # takes 0.1 s, which most commands do not need

        image = self._painter.draw(frame.image, result.predictions)
        try:
            done, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        except cv2.error:
            done = False
        if not done:
            raise SinkError(
                f"'{frame.asset_id}': an image of {frame.size[1]} x {frame.size[0]} px cannot be "
                "written as JPEG, which allows 65,500 px per side; run it without sink=overlay",
                asset_id=frame.asset_id,
                step="overlay",
            )
        return memoryview(jpeg.data)
