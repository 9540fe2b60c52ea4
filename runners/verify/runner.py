"""``runner=verify``: repeats a finished run and says whether the results are identical."""

from __future__ import annotations

import random
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from pipeline.errors import ConfigError, OutputLockedError, PipelineError
from pipeline.job import Job, Report
from pipeline.recorded.configuration import directory_of
from pipeline.recorded.run import RECORD, RecordedRun
from pipeline.recorded.signing import SIGNATURES, bad_signatures, read_public_key
from pipeline.system.terminal import print_stderr, print_stdout
from pipeline.validation import check_whole
from runners.rundir.translation import output_errors
from runners.verify.comparing import (
    Findings,
    check_manifest,
    compare_results,
    compare_settings,
    recorded_ids,
)
from runners.verify.repeat import build_repeat


class Verify:
    """Checks the files of a finished run, repeats it from ``run.json``, and compares the results.

    Args:
        run: The run directory.
        sample: Number of inputs to repeat, drawn with the job's ``seed``; ``None``: all.
        public_key: A PEM file with the Ed25519 public key of who signed the run; ``None``: do not
            check signatures.

    Raises:
        ConfigError: ``sample`` is not at least 1, or the key cannot be read.
    """

    def __init__(
        self, run: str | None = None, sample: int | None = None, public_key: str | None = None
    ) -> None:
        self.run_directory = run
        self.sample = sample
        if sample is not None:
            check_whole("sample", sample, 1)
        self.key = None if public_key is None else read_public_key(public_key, "public_key")

    def run(self, job: Job) -> Report:
        """Verify the run. The repeat is in the job's output; it is removed if it is identical.

        Returns:
            A report with exit status 0 if everything is identical, otherwise 1.

        Raises:
            ConfigError: There is no finished run, or the output is not empty.
            OutputLockedError: Another run has locked the output.
            OutputError: The run is damaged.
        """
        if self.run_directory is None:
            raise ConfigError("nothing to verify: add runner.run=DIR")
        run = RecordedRun(self.run_directory)
        run.check_finished()
        is_new = _check_empty(job.output, run.path)
        findings = Findings()
        # not locked, because the directory may be read-only
        self._check_signatures(run, findings)
        check_manifest(run, findings)
        ids = sorted(recorded_ids(run))
        if self.sample is not None and self.sample < len(ids):
            ids = random.Random(job.config["seed"]).sample(ids, self.sample)
        self._compare(job, run, set(ids), findings)
        is_identical = not findings.differs
        has_repeat = (job.output / RECORD).exists()
        if job.output.is_dir() and (is_identical or not has_repeat):
            with output_errors(job.output):
                _remove_repeat(job.output, is_new)
        if not job.config["quiet"]:
            _print(run, len(ids), findings, job.output if has_repeat else None)
        message = ""
        if job.config["quiet"] and not is_identical:
            message = f"different: {run.path}: {'; '.join(findings.differs)}"
        counts = {"done": findings.inputs, "failed": len(ids) - findings.inputs}
        return Report(0 if is_identical else 1, job.output, counts, message=message)

    def _check_signatures(self, run: RecordedRun, findings: Findings) -> None:
        if self.key is not None:
            findings.differs += bad_signatures(run.path, self.key)
        elif any((run.path / name).exists() for name in SIGNATURES):
            findings.notes.append("the run is signed; add runner.public_key=PEM to check that")

    def _compare(self, job: Job, run: RecordedRun, ids: set[str], findings: Findings) -> None:
        """Repeat inputs and compare the results; whatever prevents that is a difference."""
        if not ids:
            findings.notes.append("the run has no inputs, so nothing was repeated")
            return
        try:
            with directory_of(run), redirect_stdout(StringIO()):  # the summary of the repeat
                repeat = build_repeat(job, run, ids)
                repeat.runner.run(repeat)
            repeated = RecordedRun(job.output)
            compare_results(run, repeated, ids, findings)
            compare_settings(run, repeated, findings)
            findings.explain()
        except OutputLockedError:
            raise
        except PipelineError as exc:
            findings.differs.append(f"the run cannot be repeated: {exc}")
            return
        if findings.differs and self.sample is not None and repeat.config["batch_size"] != 1:
            findings.notes.append(
                "in a sample, other images share a batch, which changes the last digits"
            )


def _check_empty(output: Path, run: Path) -> bool:
    """Check that the output can hold the repeat; return whether it is to be created.

    Raises:
        ConfigError: It is in the run directory, or is not empty.
    """
    if output.resolve().is_relative_to(run.resolve()):
        raise ConfigError(f"output {output}: it is in the run to verify; choose another output")
    if not output.is_dir():
        return True
    if any(output.iterdir()):
        raise ConfigError(f"output {output}: it is not empty; choose another output for the repeat")
    return False


def _remove_repeat(output: Path, is_new: bool) -> None:
    for path in output.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if is_new:
        output.rmdir()


def _print(run: RecordedRun, n_inputs: int, findings: Findings, repeat: Path | None) -> None:
    """Print the verdict, what differs, and where to look."""
    if not findings.differs:
        files = f"; {findings.files} files match manifest.sha256" if findings.files else ""
        although = f", although {'; '.join(findings.causes)}" if findings.causes else ""
        print_stdout(
            f"identical: {run.path}: {findings.inputs} of {n_inputs} repeated inputs{files}"
            f"{although}"
        )
    else:
        print_stdout(f"different: {run.path}")
        for text in findings.differs:
            print_stdout(f"  {text}")
        if repeat is not None:
            print_stdout(f"the repeat is in {repeat}")
    for text in findings.notes:
        print_stderr(f"note: {text}")
