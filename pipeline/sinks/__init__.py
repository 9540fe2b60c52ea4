"""Sinks write the results: files per asset, and files over the whole run."""

PARTS = ("coco.CocoJson", "overlay.Overlay", "video.Video")  # what `sink.NAME._target_` may name
