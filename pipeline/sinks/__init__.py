"""What is done with the results: files of one asset each, and files over the whole run."""

PARTS = ("coco.CocoJson", "overlay.Overlay")  # what `sink.NAME._target_` may name
