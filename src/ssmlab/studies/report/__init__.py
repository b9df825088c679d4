"""Reports of a study: one HTML page, Markdown, a LaTeX table and JSON."""

from ssmlab.studies.report.data import ReportData

__all__ = ["ReportData"]
