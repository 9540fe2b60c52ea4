"""``runner=report``: writes the page of a finished run again."""

from __future__ import annotations

from dataclasses import replace

from pipeline.errors import ConfigError
from pipeline.job import Job, Report
from pipeline.recorded import read_run
from pipeline.recorded.run import run_directory
from pipeline.sinks.report import HtmlReport
from pipeline.system.terminal import print_stdout
from runners.rundir.lock import locked
from runners.rundir.owned.aggregates import build_from_record
from runners.rundir.translation import output_errors


class MakeReport:
    """Writes ``report.html`` into the directory of a finished run, with the options of the sink.

    Args:
        run: The run directory.
    """

    def __init__(self, run: str | None = None) -> None:
        self.run_directory = run

    def run(self, job: Job) -> Report:
        """Read the run and write the page.

        Raises:
            ConfigError: There is no finished run, none is named, or an input is given.
            OutputLockedError: The run has not ended.
            OutputError: The results are damaged, or the page cannot be written.
        """
        if job.source is not None:
            raise ConfigError("runner=report reads a finished run; remove input")
        if self.run_directory is None:
            raise ConfigError("no run: add runner.run=DIR")
        directory = run_directory(self.run_directory)
        recorded = read_run(directory)
        selected = job.aggregates.get("report")
        page = selected if isinstance(selected, HtmlReport) else HtmlReport(directory)
        with locked(directory), output_errors(directory):
            recorded.check_finished()
            build_from_record(replace(page, directory=directory), directory, recorded.categories)
        if not job.config["quiet"]:
            path = directory / page.outputs[0]
            print_stdout(f"report in {path}", unbroken=[str(path)])
        return Report(0, directory)
