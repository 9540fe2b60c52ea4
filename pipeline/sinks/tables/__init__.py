"""The rows of tables, read from ``predictions.jsonl``: what ``csv`` and ``parquet`` share."""

from __future__ import annotations

from pipeline.sinks.tables.schema import Kind, Schema, read_schema

__all__ = ["Kind", "Schema", "read_schema"]
