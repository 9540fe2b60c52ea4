"""A ``predictions.jsonl`` without a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.encoding import NAME, encode
from pipeline.engine import Pipeline
from pipeline.job import Outcome
from pipeline.records import Result
from pipeline.sinks.label_maps import LabelMaps
from runners.rundir.journal import Journal


def write_journal(directory: Path, results: Iterable[Result]) -> Path:
    """Write the lines and label maps of results, each a still; return the file."""
    directory.mkdir(parents=True, exist_ok=True)
    with Journal(directory) as journal, LabelMaps(directory) as maps:
        for result in results:
            maps.write(result)
            journal.append([encode(result)])
    return directory / NAME


def run_into(
    directory: Path, runnable: Any, stages: Any, assets: Any, **options: Any
) -> list[Outcome]:
    """Run assets through a pipeline with label maps; append the lines to ``predictions.jsonl``."""
    directory.mkdir(parents=True, exist_ok=True)
    with Journal(directory) as journal, LabelMaps(directory) as maps:
        pipeline = Pipeline(
            runnable, stages, {"label_maps": maps}, encode=encode, spool_dir=directory, **options
        )
        outcomes = []
        for outcome in pipeline.run(assets):
            journal.append(outcome.records)
            outcome.records.close()
            outcomes.append(outcome)
    return outcomes
