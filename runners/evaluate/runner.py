"""``runner=evaluate``: compares the results of a run with a ground truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.job import Job, Report
from pipeline.recorded import read_run
from pipeline.recorded.run import EVALUATION, run_directory
from pipeline.sinks.report import NAME as REPORT
from pipeline.sinks.report import show_evaluation
from pipeline.sources.recorded import run_images
from pipeline.system.files import expanded, write_whole
from pipeline.system.terminal import print_stderr
from pipeline.validation import check, check_whole
from runners.batch import Batch
from runners.evaluate.evaluation import Options, evaluated
from runners.evaluate.numbers.thresholds import stage_yaml
from runners.evaluate.printing import print_evaluation
from runners.evaluate.reading.results import read_results
from runners.evaluate.reading.truth import read_truth
from runners.rundir.lists import THRESHOLDS
from runners.rundir.lock import locked
from runners.rundir.translation import output_errors


class Evaluate:
    """Evaluates a finished run, or runs the pipeline as a batch and evaluates that.

    Args:
        run: The run directory of a finished run; ``None``: process the job's input first.
        ground_truth: A COCO ``.json`` with annotations; ``None``: the job's input.
        metric: What a sweep optimizes, such as ``box.AP50`` or ``f1``; ``None``: the AP of masks if
            there are any, otherwise of boxes.
        compare: Another run directory, to compare with.
        slice_by: A column of the ground truth's images, or of ``columns`` in ``predictions.jsonl``:
            numbers per value of it.
        bootstrap: How often the images are drawn again for the confidence intervals of ``compare``.
        keypoint_sigmas: Per keypoint, how precisely people place it; ``None``: those of COCO's 17.

    Raises:
        ConfigError: ``bootstrap`` or a number of ``keypoint_sigmas`` is out of range.
    """

    def __init__(
        self,
        run: str | None = None,
        ground_truth: str | None = None,
        metric: str | None = None,
        compare: str | None = None,
        slice_by: str | None = None,
        bootstrap: int = 1000,
        keypoint_sigmas: list[float] | None = None,
    ) -> None:
        self.run_directory = run
        self.ground_truth = ground_truth
        self.metric = metric
        self.compare = compare
        self.slice_by = slice_by
        self.bootstrap = bootstrap
        self.keypoint_sigmas = keypoint_sigmas
        check_whole("bootstrap", bootstrap, 0)
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
            directory = run_directory(self.run_directory)
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
            evaluation = evaluated(results, truth, self._options(job))
            _write(directory, evaluation)
            if (directory / REPORT).is_file():
                show_evaluation(directory, read_run(directory).categories, run_images(directory))
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

    def _options(self, job: Job) -> Options:
        return Options(
            metric=self.metric,
            compare=None if self.compare is None else expanded(self.compare),
            slice_by=self.slice_by,
            sigmas=self.keypoint_sigmas,
            n_bootstrap=self.bootstrap,
            seed=job.config["seed"],
        )


def _write(directory: Path, evaluation: dict[str, Any]) -> None:
    text = json.dumps(evaluation, indent=1, ensure_ascii=False, allow_nan=False)
    files = {EVALUATION: f"{text}\n"}
    if "f1" in evaluation:
        files[THRESHOLDS] = stage_yaml(evaluation["f1"], directory.name)
    for name, content in files.items():
        write_whole(directory / name, content.encode(errors="backslashreplace"))
