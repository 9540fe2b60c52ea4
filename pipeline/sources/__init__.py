"""Sources list the assets of a run: files, directories, globs, lists, datasets and streams."""

from __future__ import annotations

from pipeline.sources.asset import ImageAsset, Skipped
from pipeline.sources.decode.image import decode_image
from pipeline.sources.frames import FramesAsset
from pipeline.sources.images import Images
from pipeline.sources.manifest import Manifest
from pipeline.sources.several import Several
from pipeline.sources.stream import Stream
from pipeline.sources.video import Video

__all__ = [
    "FramesAsset",
    "ImageAsset",
    "Images",
    "Manifest",
    "Several",
    "Skipped",
    "Stream",
    "Video",
    "decode_image",
]

# what `source._target_` may name
PARTS = (
    "archive.Archive",
    "auto.auto",
    "coco_images.CocoImages",
    "images.Images",
    "manifest.Manifest",
    "recorded.Recorded",
    "remote.Remote",
    "stream.Stream",
    "video.Video",
)
