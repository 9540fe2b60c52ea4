"""An image of each instance, cut out of its frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SinkError
from pipeline.protocols import Asset
from pipeline.records import Categories, Predictions, Result
from pipeline.system.descriptors import names_in
from pipeline.system.files import output_name
from pipeline.system.output_folder import OutputFolder
from pipeline.validation import check_choice, check_flag, check_number, check_whole

_MAX_NAME_LENGTH = 48  # of a class in a file name, in characters of up to 4 bytes
_UNSAFE = re.compile(r"[^\w ()+,-]")


class Crops:
    """Writes ``<directory>/<asset id>/<position>_<class>.jpg``, an image per instance.

    The position is that in ``predictions.jsonl``, with at least three digits; before it, files of
    a video have the frame: ``000012_003_person.jpg``. Instances whose box is not finite, or has no
    pixel in the frame, have no image. Each file is written atomically as its frame arrives.

    Args:
        directory: Directory of the images, in the run directory.
        min_score: Write only instances with at least this score, 0 to 1.
        min_size_px: Write only instances whose box is at least this wide and high, without margin.
        margin: Added on each side of the box, as a fraction of its width or height, 0 to 10; less
            at the edge of the frame.
        masked: Show only the pixels of the mask. The others are black in a JPEG and transparent in
            a PNG.
        by_class: Write ``<directory>/<class>/<asset id>/<position>.jpg`` instead, the layout of
            torchvision's ``ImageFolder``.
        format: ``jpg`` or ``png``.
        quality: JPEG quality, 1 to 100.

    Raises:
        ConfigError: An option has an invalid value.
    """

    def __init__(
        self,
        directory: str | Path,
        min_score: float = 0.0,
        min_size_px: int = 1,
        margin: float = 0.0,
        masked: bool = False,
        by_class: bool = False,
        format: Literal["jpg", "png"] = "jpg",
        quality: int = 90,
    ) -> None:
        check_number("min_score", min_score, 0, 1)
        check_whole("min_size_px", min_size_px, 1)
        check_number("margin", margin, 0, 10)
        check_flag("masked", masked)
        check_flag("by_class", by_class)
        check_choice("format", format, ("jpg", "png"))
        check_whole("quality", quality, 1, 100)
        self.directory = Path(directory)
        # not ``min_score``, by which the engine would filter: positions would change
        self._lowest = np.float32(min_score)
        self.min_size_px, self.margin = min_size_px, margin
        self.masked, self.by_class = masked, by_class
        self.format, self.quality = format, quality
        self.outputs: tuple[str, ...] = (f"{self.directory.name}/",)
        self._class_names: tuple[str, ...] = ()
        self._folders: list[str] = []  # by class id
        self._numbered = False
        self._folder = OutputFolder(self.directory.parent)

    def check(self, categories: Categories) -> None:
        """Name the directories of the classes."""
        self._name_classes(categories.thing_names)
        if self.by_class:
            name = self.directory.name
            self.outputs = (f"{name}/", *(f"{name}/{each}/" for each in self._folders))

    def __enter__(self) -> Crops:
        """Do nothing: files are opened as frames arrive."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Do nothing: no file stays open."""

    def begin(self, asset: Asset) -> None:
        """Remove the asset's images: an earlier version may have had more instances."""
        self._numbered = not asset.is_still
        self.discard(asset)

    def write(self, result: Result) -> None:
        """Write the images of one frame's instances.

        Raises:
            SinkError: ``masked`` is set and the instances have no masks, or an image is larger
                than JPEG allows (65,500 px per side).
        """
        frame, p = result.frame, result.predictions
        if p.class_names != self._class_names:
            self._name_classes(p.class_names)
        if self.masked and len(p) and p.masks is None:
            raise SinkError(
                f"'{frame.asset_id}': the model returns no masks; set sink.crops.masked=false",
                asset_id=frame.asset_id,
            )
        number = f"{frame.index:06d}_" if self._numbered else ""
        for i, class_id in enumerate(p.classes.tolist()):
            if self._lowest and not p.scores[i] >= self._lowest:
                continue
            place = self._place(p, i)
            if place is not None:
                folder = self._folders[class_id]
                name = f"{number}{i:03d}" if self.by_class else f"{number}{i:03d}_{folder}"
                where = self._asset_folder(frame.asset_id, folder)
                image = self._encoded(self._image(frame.image, p, i, place), frame.asset_id)
                self._folder.write(f"{where}/{name}.{self.format}", image)

    def flush(self, asset: Asset) -> None:
        """Do nothing: the files have their final names since ``write``."""

    def sync(self) -> None:
        """Make the names of the files durable.

        Raises:
            OSError: The disk fails.
            OutputError: A file was moved or deleted during the run.
        """
        self._folder.sync()

    def discard(self, asset: Asset) -> None:
        """Remove the asset's images, including those of an earlier run."""
        if not self.by_class:
            self._folder.remove(self._asset_folder(asset.id, ""))
            return
        there = set(names_in(self.directory))
        for folder in self._folders:
            if folder in there:
                self._folder.remove(self._asset_folder(asset.id, folder))

    def _asset_folder(self, asset_id: str, folder: str) -> str:
        below = f"{folder}/" if self.by_class else ""
        return f"{self.directory.name}/{below}{output_name(asset_id, '')}"

    def _name_classes(self, class_names: Sequence[str]) -> None:
        self._class_names, self._folders = tuple(class_names), file_names(class_names)

    def _place(self, p: Predictions, i: int) -> tuple[int, int, int, int] | None:
        """Return x1, y1, x2, y2 of an instance's image in whole pixels; ``None`` for no image."""
        box = p.boxes[i].astype(np.float64)
        if not np.isfinite(box).all():
            return None
        sides = box[2:] - box[:2]
        if sides.min() < self.min_size_px:
            return None
        low = np.floor(box[:2] - self.margin * sides)
        high = np.ceil(box[2:] + self.margin * sides)
        height, width = p.image_size
        x1, y1 = np.clip(low, 0, [width, height]).astype(int).tolist()
        x2, y2 = np.clip(high, 0, [width, height]).astype(int).tolist()
        return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None

    def _image(
        self, image: NDArray[np.uint8], p: Predictions, i: int, place: tuple[int, int, int, int]
    ) -> NDArray[np.uint8]:
        x1, y1, x2, y2 = place
        pixels = image[y1:y2, x1:x2]
        if not self.masked or p.masks is None:
            return pixels
        mask = p.masks[[i]].cropped(place).dense()[0]
        if self.format == "png":
            return np.dstack([pixels, mask.astype(np.uint8) * 255])
        return np.where(mask[..., None], pixels, np.uint8(0))

    def _encoded(self, image: NDArray[np.uint8], asset_id: str) -> memoryview:
        import cv2  # takes 0.1 s, which most commands do not need

        done, data = False, np.zeros(0, np.uint8)
        options = [cv2.IMWRITE_JPEG_QUALITY, self.quality] if self.format == "jpg" else []
        with suppress(cv2.error):
            done, data = cv2.imencode(f".{self.format}", image, options)
        if not done:
            raise SinkError(
                f"'{asset_id}': an image of {image.shape[1]} x {image.shape[0]} px cannot be "
                f"written as {self.format}; JPEG allows 65,500 px per side, so try "
                "sink.crops.format=png",
                asset_id=asset_id,
            )
        return memoryview(data.data)


def file_names(class_names: Sequence[str]) -> list[str]:
    """Return a name for each class that can be part of a file name, and differs from all others.

    Letters and digits of any script, spaces and ``_ ( ) + , -`` stay; other characters become
    ``_``. A name that was changed and is taken gets its class id.
    """
    safe = [
        _UNSAFE.sub("_", name).strip()[:_MAX_NAME_LENGTH].strip() or "_" for name in class_names
    ]
    taken: set[str] = {s.casefold() for s, name in zip(safe, class_names, strict=True) if s == name}
    names, used = [], set[str]()
    for class_id, (name, each) in enumerate(zip(class_names, safe, strict=True)):
        if (each != name and each.casefold() in taken) or each.casefold() in used:
            each = f"{each}~{class_id}"
        used.add(each.casefold())
        names.append(each)
    return names
