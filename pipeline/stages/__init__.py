"""Stages change or drop the result of a frame. One class per file, one option per class."""

PARTS = (  # what `stage.NAME._target_` may name, relative to this package
    "keep_classes.KeepClasses",
    "min_area.MinArea",
    "min_score.MinScore",
    "nms.Nms",
    "top_k.TopK",
)
