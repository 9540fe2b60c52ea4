"""The records that pass through a pipeline: frozen dataclasses of NumPy arrays.

Shapes, dtypes and value ranges are checked once, at construction.

Shapes: ``N`` instances, ``K`` keypoints, ``H`` and ``W`` the frame's height and width in pixels.
Boxes are ``x1, y1, x2, y2`` in pixels of the original frame (Detectron2's ``XYXY_ABS``); sizes are
``(height, width)``; images are BGR. Field names are Detectron2's without the ``pred_``.
"""

from __future__ import annotations

from pipeline.records.categories import Categories, name_problem
from pipeline.records.frame import Frame, Result
from pipeline.records.predictions import Predictions, Segment

__all__ = ["Categories", "Frame", "Predictions", "Result", "Segment", "name_problem"]
