"""``report.html``: a page that shows the results of a run, and needs nothing but a browser."""

from pipeline.sinks.report.report import HtmlReport

__all__ = ["HtmlReport"]
