"""The report: numbers to a `Report` (report.json), and a `Report` to one self-contained HTML file."""

from stillhouse.report.build import build_report
from stillhouse.report.model import Lineage, Report
from stillhouse.report.render import render_html

__all__ = ["Lineage", "Report", "build_report", "render_html"]
