"""d2run: declarative pipelines that run Detectron2 models over folders of images.

A library too: the records, the engine and the stages work without Hydra.
"""

from pipeline.system import children

if children.is_started_by_name():  # before anything else is imported
    children.clean_import_path()

from pipeline.engine import Pipeline
from pipeline.job import Outcome, Report
from pipeline.masks import InstanceMasks
from pipeline.records import Categories, Frame, Predictions, Result, Segment
from pipeline.system.versions import VERSION

__version__ = VERSION

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
