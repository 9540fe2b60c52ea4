"""Sinks write the results: files per asset, and files over the whole run."""

PARTS = (  # what `sink.NAME._target_` may name
    "coco.CocoJson",
    "crops.Crops",
    "csv.CsvTables",
    "cvat.Cvat",
    "fiftyone.Fiftyone",
    "labelme.Labelme",
    "labelstudio.LabelStudio",
    "masks.Masks",
    "overlay.Overlay",
    "parquet.ParquetTables",
    "report.HtmlReport",
    "video.Video",
    "voc.Voc",
    "webhook.Webhook",
    "yolo.Yolo",
)
