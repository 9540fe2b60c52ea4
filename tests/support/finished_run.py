"""The directory of a finished run, without running one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from journals import write_journal

from pipeline.records import Categories, Frame, Result
from pipeline.testing import make_result

SHAPES = ("circle", "square", "triangle")


class StillImage:
    """An input of a run, with its pixels."""

    is_still = True

    def __init__(self, frame: Frame) -> None:
        self.id = frame.asset_id
        self._frame = frame

    def frames(self) -> Iterator[Frame]:
        yield self._frame


def write_run(directory: Path, results: Iterable[Result] | None = None, **changes: Any) -> Path:
    """Write what a run leaves: by default one image of the classes of ``model=shapes``.

    Args:
        directory: The run directory.
        results: One per still.
        changes: Keys of ``run.json``.
    """
    if results is None:
        results = [make_result(class_names=SHAPES)]
    results = list(results)
    write_journal(directory, results)
    names = results[0].predictions.class_names if results else SHAPES
    record = {
        "state": "ended",
        "exit_status": 0,
        "fingerprint": "f" * 64,
        "inputs": [[{"path": str(directory.parent), "pattern": "", "cwd": None}]],
        "config": {"source": {"_target_": "pipeline.sources.auto.auto"}},
        "model": {"name": "shapes", "categories": asdict(Categories(thing_names=names))},
        "limits": {"min_score": 0.05, "classes": None, "max_instances": None},
    }
    inputs = [
        {"asset": result.frame.asset_id, "size": 9, "sha256": "0" * 64, "outcome": "done"}
        | {"frames": 1, "dropped": 0}
        for result in results
    ]
    (directory / "run.json").write_text(json.dumps(record | changes))
    (directory / "inputs.jsonl").write_text("".join(f"{json.dumps(i)}\n" for i in inputs))
    for name in ("failures.jsonl", "skipped.jsonl"):
        (directory / name).write_text("")
    return directory
