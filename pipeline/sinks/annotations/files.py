"""What the sinks that write one annotation file per image have in common."""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path
from typing import Literal

from pipeline.errors import SinkError
from pipeline.protocols import Asset
from pipeline.records import Categories, Frame, Result
from pipeline.sinks.annotations.instances import check_has_instances
from pipeline.sinks.frame_files import FrameFiles
from pipeline.system.files import RegularFile, output_name
from pipeline.validation import check_choice, check_number

Images = Literal["none", "link", "copy"]

_READABLE = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # by the tools
_RENDERED = ".jpg"


class AnnotationFiles(FrameFiles):
    """Writes an annotation file per frame, and beside it the image.

    The tools find the annotations of an image by its name without extension. So with the name
    ``a/x.jpg``, the files are ``a/x.jpg<suffix>`` and ``a/x.jpg.jpg``, and those of ``a/x.png`` are
    others.

    Args:
        directory: Directory of the dataset, in the run directory.
        min_score: Write only instances with at least this score, 0 to 1.
        images: ``none``; ``link``, a symbolic link to the file; ``copy``. Frames of videos, and
            images that are not files of their own, are written as JPEG instead, of quality 95.

    Raises:
        ConfigError: An option has an invalid value.

    Attributes:
        suffix: Extension of the annotation files, with its dot.
        labels_folder: Their directory in that of the dataset, with a trailing ``/``.
        images_folder: The same of the images.
        needs_pixels: Whether images are written.
    """

    labels_folder: str = ""
    images_folder: str = ""

    def __init__(self, directory: str | Path, min_score: float, images: Images) -> None:
        check_number("min_score", min_score, 0, 1)
        check_choice("images", images, ("none", "link", "copy"))
        self.directory = Path(directory)
        name = self.directory.name
        super().__init__(self.directory.parent, f"{name}/{self.labels_folder}".rstrip("/"))
        self.min_score = min_score
        self.images = images
        self.needs_pixels = images != "none"
        folders = dict.fromkeys((self.labels_folder, self.images_folder))
        self.outputs = tuple(f"{name}/{folder}" for folder in folders)
        self._file: Path | None = None

    @abstractmethod
    def encode(self, result: Result) -> bytes:
        """Return the annotation file of a frame."""

    def contents(self, result: Result) -> dict[str, bytes]:
        """Return the annotation file of a frame, by its directory."""
        return {self.folders[0]: self.encode(result)}

    def check(self, categories: Categories) -> None:
        """Raise ConfigError for a model without instances."""
        check_has_instances(categories)

    def begin(self, asset: Asset) -> None:
        """Find out whether the asset's image is a file that the tools can read."""
        super().begin(asset)
        self._file = asset.path if _is_readable(asset) else None

    def write(self, result: Result) -> None:
        """Write one frame's image and annotations.

        Raises:
            SinkError: The frame is larger than JPEG allows.
        """
        if self.images != "none":
            self._write_image(result.frame)
        super().write(result)

    def discard(self, asset: Asset) -> None:
        """Remove the asset's files, including those of an earlier run."""
        super().discard(asset)
        own = Path(asset.id).suffix
        suffixes = {_RENDERED, own or _RENDERED} if asset.is_still else {""}
        for suffix in suffixes:
            self._folder.remove(self._image(asset.id, suffix))

    def image_name(self, frame: Frame) -> str:
        """Return the file name of a frame's image, without its directory."""
        if self.images == "none" and not self._numbered:
            return frame.asset_id.rpartition("/")[2]
        suffix = _RENDERED if self._file is None else self._file.suffix
        number = frame.index if self._numbered else None
        return self._image(frame.asset_id, suffix, number).rpartition("/")[2]

    def _write_image(self, frame: Frame) -> None:
        number = frame.index if self._numbered else None
        suffix = _RENDERED if self._file is None else self._file.suffix
        name = self._image(frame.asset_id, suffix, number)
        if self._file is None:
            self._folder.write(name, _jpeg(frame))
        elif self.images == "copy":
            with RegularFile(self._file) as file:
                self._folder.write(name, file.read())
        else:
            start = os.path.realpath((self.directory.parent / name).parent)
            self._folder.link(name, os.path.relpath(self._file.absolute(), start))

    def _image(self, asset_id: str, suffix: str, frame: int | None = None) -> str:
        name = output_name(asset_id, suffix, frame)
        return f"{self.directory.name}/{self.images_folder}{name}"


def _is_readable(asset: Asset) -> bool:
    """Return whether an asset is a file of its own, in a format that every tool reads."""
    name, path = asset.id.rpartition("/")[2], asset.path
    return asset.is_still and path.name == name and path.suffix.lower() in _READABLE


def _jpeg(frame: Frame) -> memoryview:
    import cv2  # takes 0.1 s, which most commands do not need

    try:
        done, jpeg = cv2.imencode(_RENDERED, frame.image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    except cv2.error:
        done = False
    if not done:
        raise SinkError(
            f"'{frame.asset_id}': an image of {frame.size[1]} x {frame.size[0]} px cannot be "
            "written as JPEG, which allows 65,500 px per side; set images=none for this sink",
            asset_id=frame.asset_id,
        )
    return memoryview(jpeg.data)
