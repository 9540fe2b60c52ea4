"""``runner=evaluate``: compares the results of a run with a ground truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.job import Job, Report
from pipeline.system.files import expanded, write_whole
from pipeline.system.terminal import print_stderr
from pipeline.validation import check
from runners.batch import Batch
from runners.evaluate.data import Data, join
from runners.evaluate.engine import engine_name
from runners.evaluate.matching import Matched, match
from runners.evaluate.printing import print_evaluation
from runners.evaluate.results import Results, read_results
from runners.evaluate.scores import coco_numbers
from runners.evaluate.truth import Truth, read_truth
from runners.rundir.lists import EVALUATION
from runners.rundir.lock import locked
from runners.rundir.translation import output_errors


class Evaluate:
    """Evaluates a finished run, or runs the pipeline as a batch and evaluates that.

    Args:
        run: The run directory of a finished run; ``None``: process the job's input first.
        ground_truth: A COCO ``.json`` with annotations; ``None``: the job's input.
        metric: What a sweep optimizes, such as ``box.AP50``; ``None``: the AP of masks if there are
            any, otherwise of boxes.
        keypoint_sigmas: Per keypoint, how precisely people place it; ``None``: those of COCO's 17.

    Raises:
        ConfigError: ``keypoint_sigmas`` are not positive.
    """

    def __init__(
        self,
        run: str | None = None,
        ground_truth: str | None = None,
        metric: str | None = None,
        keypoint_sigmas: list[float] | None = None,
    ) -> None:
        self.run_directory = run
        self.ground_truth = ground_truth
        self.metric = metric
        self.keypoint_sigmas = keypoint_sigmas
        valid = keypoint_sigmas is None or all(sigma > 0 for sigma in keypoint_sigmas)
        check("keypoint_sigmas", keypoint_sigmas, valid, "numbers above 0")

    def run(self, job: Job) -> Report:
        """Evaluate, write ``evaluation.json`` into the run directory, and print a table.

        Raises:
            ConfigError: The run or the ground truth cannot be read, or they do not belong together.
            OutputLockedError: The run has not ended.
            OutputError: The evaluation cannot be written.
        """
        truth = read_truth(self._truth_path(job))
        report = Report(0)
        directory = job.output
        if self.run_directory is not None:
            if job.source is not None:
                raise ConfigError("runner.run evaluates a finished run; remove input or runner.run")
            directory = expanded(self.run_directory)
            if not directory.is_dir():
                raise ConfigError(f"runner.run: no directory '{directory}'")
        elif job.source is None:
            raise ConfigError("nothing to evaluate: add runner.run=DIR, or model=NAME input=PATH")
        else:
            report = Batch().run(job)
            if report.exit_status not in (0, 3):
                return report
        with locked(directory), output_errors(directory):
            results = read_results(directory, "runner.run")
            evaluation = self._evaluate(results, truth)
            text = json.dumps(evaluation, indent=1, ensure_ascii=False, allow_nan=False)
            write_whole(directory / EVALUATION, f"{text}\n".encode(errors="backslashreplace"))
        for warning in evaluation["warnings"]:
            print_stderr(f"warning: {warning}")
        if not job.config["quiet"]:
            print_evaluation(evaluation, directory / EVALUATION)
        return replace(report, output=directory, metric=evaluation["metric"]["value"])

    def _truth_path(self, job: Job) -> Path:
        if self.ground_truth is not None:
            return expanded(self.ground_truth)
        given = job.config["input"]
        if isinstance(given, str) and given.lower().endswith(".json"):
            return expanded(given)
        raise ConfigError("no ground truth: add runner.ground_truth=annotations.json")

    def _evaluate(self, results: Results, truth: Truth) -> dict[str, Any]:
        matched = match(results, truth)
        data = join(results, truth, matched, self.keypoint_sigmas)
        evaluation = _facts(results, truth, matched, data)
        for kind in data.kinds:
            evaluation[kind] = coco_numbers(data.dataset, kind)
        evaluation["metric"] = self._metric(evaluation, data)
        return evaluation

    def _metric(self, evaluation: dict[str, Any], data: Data) -> dict[str, Any]:
        known = {
            f"{kind}.{name}": value
            for kind in data.kinds
            for name, value in evaluation[kind].items()
            if name != "classes"
        }
        name = self.metric or f"{data.primary}.AP"
        check("metric", name, name in known, f"one of {', '.join(known)}")
        return {"name": name, "value": known[name]}


def _facts(results: Results, truth: Truth, matched: Matched, data: Data) -> dict[str, Any]:
    """Return what was compared; without times and paths, so that equal inputs give equal files."""
    return {
        "engine": engine_name(),
        "predictions_sha256": results.sha256,
        "ground_truth": {"name": truth.path.name, "sha256": truth.sha256},
        "matched_by": matched.by,
        "images": {
            "evaluated": len(data.images),
            "only_in_ground_truth": len(truth.images) - len(data.images),
            "only_in_run": len(results.records) - len(data.images),
        },
        "classes": list(data.class_names),
        "instances": sum(not each["iscrowd"] for each in data.dataset.annotations),
        "detections": len(data.dataset.detections),
        "warnings": [*results.warnings, *matched.warnings, *data.warnings],
    }
