"""Runs assets through decoder, model, stages and sinks; see ``pipeline.engine.pipeline``."""

from pipeline.engine.pipeline import Pipeline, default_decode_threads

__all__ = ["Pipeline", "default_decode_threads"]
