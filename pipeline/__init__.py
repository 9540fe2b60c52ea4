"""d2run: declarative pipelines that run Detectron2 models over folders of images.

Everything listed in ``__all__`` is for users and described in docs/python.md. Importing this
package imports neither torch nor Detectron2.
"""

from pipeline.system import children

if children.is_started_by_name():  # before any other import
    children.clean_import_path()

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.engine import Pipeline
from pipeline.errors import AssetError, ConfigError, DecodeError, PipelineError
from pipeline.job import Outcome
from pipeline.masks import InstanceMasks
from pipeline.protocols import Pushdown
from pipeline.records import Categories, Frame, Predictions, Result, Segment
from pipeline.system.versions import VERSION

if TYPE_CHECKING:
    from pipeline.model_names import find_model
    from pipeline.models.model import Model
    from pipeline.predictor import Predictor
    from pipeline.recorded import RecordedResult, RecordedRun, read_run
    from pipeline.stages.keep_classes import KeepClasses
    from pipeline.stages.min_area import MinArea
    from pipeline.stages.min_score import MinScore
    from pipeline.stages.nms import Nms
    from pipeline.stages.top_k import TopK

__version__ = VERSION

__all__ = [
    "AssetError",
    "Categories",
    "ConfigError",
    "DecodeError",
    "Frame",
    "InstanceMasks",
    "KeepClasses",
    "MinArea",
    "MinScore",
    "Model",
    "Nms",
    "Outcome",
    "Pipeline",
    "PipelineError",
    "Predictions",
    "Predictor",
    "Pushdown",
    "RecordedResult",
    "RecordedRun",
    "Result",
    "Segment",
    "TopK",
    "find_model",
    "read_run",
]

_LAZY = {  # imported on first use: worker processes import this package too, and need none of them
    "KeepClasses": "pipeline.stages.keep_classes",
    "MinArea": "pipeline.stages.min_area",
    "MinScore": "pipeline.stages.min_score",
    "Model": "pipeline.models.model",
    "Nms": "pipeline.stages.nms",
    "Predictor": "pipeline.predictor",
    "RecordedResult": "pipeline.recorded",
    "RecordedRun": "pipeline.recorded",
    "TopK": "pipeline.stages.top_k",
    "find_model": "pipeline.model_names",
    "read_run": "pipeline.recorded",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
