"""A `Report` as one HTML file without external parts."""

from stillhouse.report.model import Report


def render_html(report: Report) -> str:
    raise NotImplementedError
