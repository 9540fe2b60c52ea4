"""Draws predictions onto an image with OpenCV."""

from __future__ import annotations

from pipeline.sinks.drawing.painter import Painter

__all__ = ["Painter"]
