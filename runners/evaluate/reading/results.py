"""Reads the results of a finished run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.encoding import read_records
from pipeline.errors import ConfigError
from pipeline.sinks.coco import coco_result
from pipeline.system.descriptors import open_to_read
from pipeline.system.files import asset_id_of, sha256_file

_LOW = 0.05  # Detectron2's own threshold, with which published numbers are made
_CAP = 100  # COCO counts as many instances per image


@dataclass(frozen=True)
class Results:
    """The results of a run.

    Attributes:
        directory: The run directory.
        sha256: Of ``predictions.jsonl``, in hexadecimal.
        class_names: The model's classes of instances.
        stuff_names: The model's classes of regions, for semantic and panoptic models.
        records: The lines of ``predictions.jsonl``.
        warnings: What is missing in these results.
        limits: What makes AP and AR too low.
        n_failed: Number of inputs that failed.
        keeps_ids: Whether the image ids are those of a COCO file.
    """

    directory: Path
    sha256: str
    class_names: tuple[str, ...]
    stuff_names: tuple[str, ...]
    records: list[dict[str, Any]]
    warnings: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    n_failed: int = 0
    keeps_ids: bool = False

    def detections(
        self, images: Mapping[int, Any], categories: Mapping[str, int]
    ) -> Iterator[dict[str, Any]]:
        """Yield the instances as in ``coco_results.json``.

        Args:
            images: The ground truth's image id by index of the record; others are skipped.
            categories: The ground truth's category id by class name; others are skipped.
        """
        for i, record in enumerate(self.records):
            if i not in images:
                continue
            for instance in record["instances"]:
                if None in instance["box"] or instance["score"] is None:
                    continue
                category_id = categories.get(instance["class_name"])
                if category_id is not None:
                    yield coco_result(instance, images[i], category_id)


def read_results(directory: Path, option: str) -> Results:
    """Read a run directory.

    Args:
        directory: The run directory.
        option: The option that names it, for messages.

    Raises:
        ConfigError: It is not the directory of a run.
        OutputError: A line of ``predictions.jsonl`` is incomplete.
    """
    predictions = directory / PREDICTIONS
    try:
        with open_to_read(directory / "run.json") as file:
            record = json.load(file)
        class_names = tuple(record["model"]["class_names"])
        stuff_names = tuple(record["model"].get("stuff_names", ()))
        config = dict(record["config"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ConfigError(
            f"{option}: '{directory}' is not a run directory: run.json cannot be read"
        ) from exc
    if not predictions.exists():
        raise ConfigError(f"{option}: '{directory}' holds no {PREDICTIONS}; run it first")
    unfinished = record.get("state") != "ended"
    target = str((config.get("source") or {}).get("_target_"))
    given = config.get("input")
    return Results(
        directory=directory,
        sha256=sha256_file(predictions),
        class_names=class_names,
        stuff_names=stuff_names,
        records=list(read_records(predictions)),
        warnings=("the run did not finish; it is evaluated as it is",) if unfinished else (),
        limits=tuple(_limits(config)),
        n_failed=int((record.get("totals") or {}).get("failed", 0)),
        keeps_ids="coco_images" in target or str(given).lower().endswith(".json"),
    )


def name_of(record: Mapping[str, Any]) -> str:
    """Return the id of the asset of a record."""
    return asset_id_of(record)


def _limits(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning for each setting that removed predictions which COCO's numbers need."""
    stages = config.get("stage") or {}
    limits = {
        "model.score_threshold": (config.get("model") or {}).get("score_threshold"),
        "runnable.min_score": (config.get("runnable") or {}).get("min_score"),
    }
    for name, stage in stages.items():
        target = str((stage or {}).get("_target_", "")).rpartition(".")[2]
        if target == "MinScore":
            values = [stage.get("threshold"), *(stage.get("thresholds") or {}).values()]
            limits[f"stage.{name}"] = max(v for v in values if v is not None)
        elif target == "TopK":
            k = stage.get("k")
            if isinstance(k, int) and k < _CAP:
                yield f"stage.{name}.k={k} capped the predictions; AP needs up to {_CAP} per image"
        elif target in ("KeepClasses", "MinArea", "Nms"):
            yield f"stage.{name} removed predictions before they were evaluated"
        elif target:
            yield f"stage.{name} may have changed the predictions before they were evaluated"
    for key, value in limits.items():
        if isinstance(value, (int, float)) and value > _LOW:
            yield (
                f"predictions below a score of {value:g} are missing ({key}), so AP and AR are too "
                "low; run again with 'stage=[]' for COCO's numbers"
            )
    cap = (config.get("runnable") or {}).get("max_instances")
    if isinstance(cap, int) and cap < _CAP:
        yield f"runnable.max_instances={cap} capped the predictions; AP needs {_CAP} per image"
