"""Sinks write the results: files per asset, and files over the whole run."""

PARTS = (  # what `sink.NAME._target_` may name
    "coco.CocoJson",
    "cvat.Cvat",
    "fiftyone.Fiftyone",
    "labelme.Labelme",
    "labelstudio.LabelStudio",
    "overlay.Overlay",
    "voc.Voc",
    "yolo.Yolo",
)
