"""Sources list the assets of a run: image files, directories, globs, lists and datasets."""

from __future__ import annotations

from pipeline.sources.asset import ImageAsset, Skipped
from pipeline.sources.decode.image import decode_image
from pipeline.sources.images import Images
from pipeline.sources.manifest import Manifest
from pipeline.sources.several import Several

__all__ = ["ImageAsset", "Images", "Manifest", "Several", "Skipped", "decode_image"]

# what `source._target_` may name
PARTS = (
    "archive.Archive",
    "auto.auto",
    "coco_images.CocoImages",
    "images.Images",
    "manifest.Manifest",
)
