"""``report.html``: a page that shows the results of a run, and needs nothing but a browser."""

from pipeline.sinks.report.report import NAME, HtmlReport, show_evaluation

__all__ = ["NAME", "HtmlReport", "show_evaluation"]
