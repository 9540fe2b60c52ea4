"""Finished runs, read back: the records in ``predictions.jsonl`` as NumPy predictions."""

from pipeline.recorded.assets import RecordedAsset, RecordedImage
from pipeline.recorded.decoding import RecordedFrame, RecordedResult
from pipeline.recorded.run import RecordedInput, RecordedRun, read_run

__all__ = [
    "RecordedAsset",
    "RecordedFrame",
    "RecordedImage",
    "RecordedInput",
    "RecordedResult",
    "RecordedRun",
    "read_run",
]
