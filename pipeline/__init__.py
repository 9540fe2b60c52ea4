"""d2run: declarative pipelines that run Detectron2 models over folders of images.

A library too: the records, the engine and the stages work without Hydra.
"""

from pipeline import children

if children.is_started_by_name():  # before anything else is imported
    children.clean_import_path()

from pipeline.engine import Pipeline
from pipeline.masks import InstanceMasks
from pipeline.types import Categories, Frame, Outcome, Predictions, Report, Result, Segment

__version__ = "0.1.0"

__all__ = [
    "Categories",
    "Frame",
    "InstanceMasks",
    "Outcome",
    "Pipeline",
    "Predictions",
    "Report",
    "Result",
    "Segment",
]
