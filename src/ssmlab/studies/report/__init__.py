"""Reports of a study: one HTML page, Markdown, a LaTeX table, SVG and JSON."""

from ssmlab.studies.report.build import build_report, report_of
from ssmlab.studies.report.data import ReportData
from ssmlab.studies.report.publish import publication, publish
from ssmlab.studies.report.write import write_report

__all__ = ["ReportData", "build_report", "publication", "publish", "report_of", "write_report"]
